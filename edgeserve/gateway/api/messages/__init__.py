"""POST /v1/messages and /v1/messages/count_tokens, for clients made for Anthropic: its SDKs, and
Claude Code. Nothing is kept: a request brings the whole conversation.

Not covered: what runs at Anthropic (web search, code execution, containers, MCP servers, batches,
edits of the context), tools that Anthropic describes and not the client, images and documents.
"""
