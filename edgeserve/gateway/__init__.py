"""The HTTP process: checks requests, turns text into tokens and back, and says how it went.

Not covered: the dashboard (it gets files of its own beside `native.py`); TLS (a proxy in front does
it); CORS (no browser page of another origin is served); several models.
"""
