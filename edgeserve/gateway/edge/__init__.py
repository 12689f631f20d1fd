"""Who may come in, and what every request passes before a route sees it: bounds of a connection,
the request's id and context, keys and quotas, and errors in the shape of whoever asks.

Not covered: TLS (a proxy in front does it), and what a body means.
"""
