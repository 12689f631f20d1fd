"""Where the time went: ledgers that add up, and the receipts made of them.

Not covered: clocks of other machines (no timestamp crosses the wire); energy; time that a client
spends on its own side.
"""
