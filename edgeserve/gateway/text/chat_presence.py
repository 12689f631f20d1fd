"""Finds what was sent with a chat and is not in the prompt that a template made of it.

A template prints what its author thought of: a role, a name or a call that it does not know is
dropped without a word, and the answer is one to something else. A text cannot simply be looked for,
since it may also stand elsewhere in the prompt, or be trimmed, moved or escaped. So the template
writes a second prompt, of texts with marks in them:

    "hello"   ->   "h7203318700000041ell7203318700000042o"

A mark that is missing there is tried alone: if the prompt stays as it was, letter by letter, the
template drops that text. If not, the template makes something else of it, which is its business.
Reasoning of earlier turns may be dropped: templates do that on purpose. So may who speaks, the
`name` of a message: few templates print it, and some clients name every message.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

NONCE_DIGITS = 12
COUNT_DIGITS = 6  # a body of 2 MiB has fewer texts
TRIED_ALONE_MAX = 8
"""Each takes another prompt. A template that makes something else of one text does so of its kind.
"""
THOUGHT_ENDS = "</think>"
Path = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class ConversationPart:
    """A text of a chat, and how it is marked."""

    path: Path
    mark: Callable[[Any, str], Any]

    @property
    def place(self) -> str:
        """As a client knows it, such as 'messages[0].content'."""
        names = [f"[{each}]" if isinstance(each, int) else f".{each}" for each in self.path]
        return "".join(names).removeprefix(".")


def missing_place(
    variables: Mapping[str, Any], prompt: str, render: Callable[[Mapping[str, Any]], str]
) -> str | None:
    """The first part of `variables` that is not in `prompt`, which `render` made of them.

    Raises what `render` does.
    """
    parts = [*_parts(variables)]
    nonce = str(secrets.randbelow(9 * 10**NONCE_DIGITS) + 10**NONCE_DIGITS)
    marks = [f"{nonce}{i:0{COUNT_DIGITS}}" for i in range(len(parts))]
    written = render(_marked(variables, zip(parts, marks, strict=True)))
    found = {*re.findall(f"{nonce}[0-9]{{{COUNT_DIGITS}}}", written)}
    missing = [pair for pair in zip(parts, marks, strict=True) if pair[1] not in found]
    for part, mark in missing[:TRIED_ALONE_MAX]:
        if render(_marked(variables, [(part, mark)])) == prompt:
            return part.place
    return None


def _marked(
    variables: Mapping[str, Any], marks: Iterable[tuple[ConversationPart, str]]
) -> dict[str, Any]:
    sent = {name: variables.get(name) for name in ("messages", "tools")}
    changed = {**variables, **json.loads(json.dumps(sent))}  # a deep copy, and a quick one
    for part, mark in marks:
        *above, last = part.path
        holder: Any = changed
        for key in above:
            holder = holder[key]
        holder[last] = part.mark(holder[last], mark)
    return changed


def _parts(variables: Mapping[str, Any]) -> Iterator[ConversationPart]:
    for i, message in enumerate(variables["messages"]):
        path: Path = ("messages", i)
        yield from _content_parts(message, (*path, "content"))
        for j, _ in enumerate(message.get("tool_calls") or ()):
            yield ConversationPart(path=(*path, "tool_calls", j, "function", "name"), mark=_at_end)
            yield ConversationPart(
                path=(*path, "tool_calls", j, "function", "arguments"), mark=_as_another
            )
    for i, tool in enumerate(variables.get("tools") or ()):
        for name in ("name", "description"):
            if tool["function"].get(name, "").strip():
                yield ConversationPart(path=("tools", i, "function", name), mark=_at_end)


def _content_parts(message: Mapping[str, Any], path: Path) -> Iterator[ConversationPart]:
    content = message.get("content") or ""
    if message["role"] == "assistant":
        content = content.rpartition(THOUGHT_ENDS)[2]
    elif len(content.strip()) > 1:
        yield ConversationPart(path=path, mark=_at_start)
    if content.strip():
        yield ConversationPart(path=path, mark=_at_end)


def _at_start(text: str, mark: str) -> str:
    """Within the text: what is around it may be trimmed, and what it begins with may matter."""
    at = len(text) - len(text.lstrip()) + 1
    return text[:at] + mark + text[at:]


def _at_end(text: str, mark: str) -> str:
    at = len(text.rstrip()) - 1
    return text[:at] + mark + text[at:]


def _as_another(arguments: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """One argument more: numbers cannot be marked, and there may be none at all."""
    return {**arguments, mark: mark}
