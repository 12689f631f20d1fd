"""One generation, from a validated request to its finished text, whatever the API asked in.

    Conversation ── ChatStarter ── ChatAnswer ── TextDelta | ToolCall | Ended

Chat completions, responses and messages are dialects of one chat: each parses its own bodies into a
`Conversation`, and words the events of a `ChatAnswer` in its own way. Not covered: the bodies
themselves, and what is said of those that cannot be taken.
"""
