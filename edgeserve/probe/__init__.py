"""Measures a running cluster from outside: a client like any other, which reads its receipts.

Not covered: arrivals at random (all requests of a batch start together); prompts of different
lengths in one batch; finding the largest batch by search; anything that a client could not see.
"""
