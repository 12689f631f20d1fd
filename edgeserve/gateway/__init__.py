"""The HTTP process: checks requests, turns text into tokens and back, and says how it went.

    edge ── api ── generate ── text, and observe and dashboard beside them

Not covered: TLS (a proxy in front does it); several models.
"""
