"""Carries out the schedule: joins the scheduler's decisions to the network, on a thread of its own.

Not covered: replay after a worker's death (running requests end with an error that says so); a
worker-to-worker chain; several pipelines behind one gateway.
"""
