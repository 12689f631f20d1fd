"""What runs next: events in, orders out. Never runs anything.

Not covered: preemption (an accepted request always finishes); what is drafted (the gateway says how
many tokens it would try, and whether they came true).
"""
