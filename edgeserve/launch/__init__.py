"""Starts a whole cluster on this machine: worker processes and a gateway, and ends them together.

Not covered: starting anything on another machine; several clusters at once on one port.
"""
