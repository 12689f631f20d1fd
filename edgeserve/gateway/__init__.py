"""The HTTP process: checks requests, turns text into tokens and back, and says how it went.

Not covered: OpenAI's tools and response formats; metrics and the dashboard (they get files of their
own beside `native.py`); TLS (a proxy in front does it); CORS (no browser page of another origin is
served); several models.
"""
