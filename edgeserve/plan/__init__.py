"""Who holds which layers: memory first, then the slowest stage as fast as can be.

Nothing is loaded, and nobody is asked. Not covered: choosing the order of the workers (it is the
order in which they are named); several stages on a worker; a stage on several workers; the time of
the network between them.
"""
