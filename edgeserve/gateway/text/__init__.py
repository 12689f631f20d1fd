"""Text into tokens and back: tokenizers, chat templates, stop strings, tool calls, and grammars
that hold an answer to a form. Not covered: HTTP, and who asked.
"""
