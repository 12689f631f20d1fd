"""What a message of a chat may say: text, or parts of it. A part that is no text is refused by
name, since the model would answer to a message that it has not read.
"""

from __future__ import annotations

from typing import Any

from pydantic_core import PydanticCustomError

from edgeserve.gateway.api.validation import REFUSED
from edgeserve.gateway.text.json_text import shown

TEXT_OF = {
    "text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal",
}  # fmt: skip
"""The types of parts, and where each has its text."""
KNOWN = {
    "type", "text", "refusal", "cache_control", "prompt_cache_breakpoint", "annotations",
    "citations", "logprobs",
}  # fmt: skip
"""Of a part of text: all but the text changes nothing."""


def content_text(content: Any) -> Any:
    """Parts as one text, each on a line of its own, as vLLM has it. Whatever else is no list is
    for others to check.
    """
    if not isinstance(content, list):
        return content
    return "\n".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise _refused(f"has {shown(part)} among its parts: send parts of type text")
    kind = part.get("type")
    name = TEXT_OF.get(kind) if isinstance(kind, str) else None
    if name is None:
        raise _refused(f"has a part of type {shown(kind)}, but the model reads text alone")
    text = part.get(name)
    if not isinstance(text, str):
        raise _refused(f"has a part whose {name} is {shown(text)}: send a string")
    strangers = sorted(part.keys() - KNOWN)
    if strangers:
        raise _refused(f"has a part with {shown(strangers[0])}, which is not known: leave it out")
    return text


def _refused(why: str) -> PydanticCustomError:
    return PydanticCustomError(REFUSED, "{why}", {"why": why})
