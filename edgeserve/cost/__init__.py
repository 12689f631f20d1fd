"""What things take of a machine: sums that follow from a model's numbers, without a machine.

Not covered: who gets what (`edgeserve.plan`), and taking it.
"""
