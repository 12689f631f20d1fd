"""Looks at this box and at every worker, and says what would go wrong at start, and the cure.

It starts nothing, loads nothing and changes nothing.

Not covered: whether weights are what they should be (a worker checks them when it loads); clocks,
which no part of edgeserve relies on; links between two workers, over which nothing goes; a second
GPU of a box.
"""
