"""Messages as a chat template can print them, where it cannot print them as they were sent.

What is changed here is how a thing is said, and never what. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, Any]]


def known_roles(messages: Messages, template: str) -> list[Mapping[str, Any]]:
    """OpenAI's `developer` is `system` for a template that does not speak of developers: its model
    was never trained with any.
    """
    if "developer" in template:
        return [*messages]
    return [
        {**message, "role": "system"} if message["role"] == "developer" else message
        for message in messages
    ]


def calls_apart(messages: Messages) -> list[Mapping[str, Any]]:
    """A text beside tool calls becomes a message of its own, before them: some templates print one
    of the two.
    """
    apart: list[Mapping[str, Any]] = []
    for message in messages:
        if message.get("tool_calls") and message.get("content"):
            apart.append({key: value for key, value in message.items() if key != "tool_calls"})
            apart.append({**message, "content": ""})
        else:
            apart.append(message)
    return apart
