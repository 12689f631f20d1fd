"""POST /v1/responses, for clients made for OpenAI's newer interface. Nothing is kept: a request
brings the whole conversation, and its answer is told once.

Not covered: what OpenAI stores (responses, conversations, prompts), runs in the background, or runs
on its own machines (web_search and other tools that are no functions), and images, files and audio.
"""
