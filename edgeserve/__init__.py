"""edgeserve: one model over several cheap boxes, and an account of where every millisecond went.

Not covered: more than one model per cluster; quantised weights; worker-to-worker transfer;
untrusted workers (a worker can read every prompt).
"""

__version__ = "0.1.0"
