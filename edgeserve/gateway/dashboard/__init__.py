"""The dashboard: a static page of our own, what is drawn on it, and a page of the routes.

`routes.py` hands the files out. They are ES modules and need no build: `main.js` polls /v1/cluster
and has the others draw it; `conversation.js` talks with the model, and `docs.js` lists the routes;
`gateway.js` alone talks to the server; `dom.js` alone makes elements.

Nothing is known here that a program could not ask for: the pages read /v1/cluster, /v1/models,
/receipts and /openapi.json, and stream from /v1/chat/completions and /generate_stream, with the key
that the user typed.

Not covered: history beyond the last two minutes (that is Prometheus' part); changing anything of
the cluster; several gateways on one page.
"""
