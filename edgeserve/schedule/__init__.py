"""What runs next: events in, orders out. Never runs anything.

Not covered: preemption (an accepted request always finishes); shared prefixes; several tokens a
step; learning how many micro-batches are best.
"""
