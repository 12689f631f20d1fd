"""The worker process: one device, one slice, one queue in front of it. Computes what it is sent, in
that order.

Not covered: several devices in one worker; quantised weights; deciding anything.
"""
