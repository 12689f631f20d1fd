"""The dashboard: one static page of our own, and what is drawn on it.

`routes.py` hands the files out. They are ES modules and need no build: `main.js` polls /v1/cluster
and has the others draw it; `gateway.js` alone talks to the server; `dom.js` alone makes elements.

Nothing is known here that a program could not ask for: the page reads /v1/cluster and streams from
/generate_stream, with the key that the user typed.

Not covered: history beyond the last two minutes (that is Prometheus' part); changing anything of
the cluster; several gateways on one page.
"""
