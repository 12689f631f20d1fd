"""The shapes of bodies, one dialect a module or package: what may be asked in it, and how an answer
is worded. Not covered: what is done about it (`generate/`).
"""
