"""OpenAI's chat completions and completions: the bodies that are taken, and the answers in that
shape. Not covered: its newer interface (`responses/`).
"""
