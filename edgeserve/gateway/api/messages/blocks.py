"""What the messages of a request may hold, and the messages that a chat template is given for them.

An answer of ours can be sent back as it came. Blocks of one message are several messages there, and
messages of one role that follow each other are one, as Anthropic has it:

    assistant: thinking, text, tool_use, tool_use ── one message of role assistant, with the calls
    user:      tool_result, tool_result, text     ── two messages of role tool, and one of the user

Refuses to know the rest of a request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from edgeserve.gateway.api.message_content import content_text
from edgeserve.gateway.api.validation import REFUSED
from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.text.json_text import shown

MESSAGES_MAX = 2048
BLOCKS_MAX = 2048  # of one message
BILLING = "x-anthropic-billing-header:"
"""What Claude Code's first block of `system` begins with. It is for Anthropic's accounts, and may
change with each request: the model is not told, or no page of a prompt would be found again.
"""
FAILED = "Error: "

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]  # Anthropic's bound
CallId = Annotated[str, Field(min_length=1, max_length=256)]
_TEXT_OR_BLOCKS = WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]})
Message = dict[str, Any]
"""As a chat template is given it."""


def refused(why: str) -> PydanticCustomError:
    """`why` goes on after the name of what is refused."""
    return PydanticCustomError(REFUSED, "{why}", {"why": why})


def _writable(value: Any) -> Any:
    """No NaN: templates write it as JSON."""
    json.dumps(value, allow_nan=False)
    return value


def _kind(block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else ""


def _tag(block: Any) -> str:
    return "@" + _kind(block)


def _refuse_others(block: Any) -> Any:
    kind = _kind(block)
    if isinstance(block, dict) and kind not in KINDS:
        known = ", ".join(sorted(KINDS))
        raise refused(
            f"is of type {shown(kind)}, but the model reads text alone: known are {known}"
        )
    return block


class _Block(BaseModel):
    """What is cached is not for the client to say: `cache_control` is not read, wherever it is."""

    model_config = STRICT

    cache_control: Any = None


class TextBlock(_Block):
    type: Literal["text"]
    text: str
    citations: Any = None
    parsed_output: Any = None
    """What Anthropic's client made of the text."""


class ToolUseBlock(_Block):
    type: Literal["tool_use"]
    id: CallId
    name: ToolName
    input: Annotated[dict[str, Any], BeforeValidator(_writable)]
    caller: Any = None
    toolset_name: None = None

    def told(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.input}
        return {"id": self.id, "type": "function", "function": function}


class ToolResultBlock(_Block):
    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Annotated[str, BeforeValidator(content_text), _TEXT_OR_BLOCKS] | None = None
    is_error: bool | None = None
    toolset_name: None = None

    def told(self) -> Message:
        """Templates know no results that are errors, so the text says it, if it did not."""
        text = self.content or ""
        if self.is_error and not text.lower().startswith("error"):
            text = FAILED + text
        return {"role": "tool", "tool_call_id": self.tool_use_id, "content": text}


class ThinkingBlock(_Block):
    """Who signed it is not read."""

    type: Literal["thinking"]
    thinking: str
    signature: Any = None


class RedactedThinkingBlock(_Block):
    """Only Anthropic can read it, so it is dropped."""

    type: Literal["redacted_thinking"]
    data: Any = None


Block = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ToolUseBlock, Tag("@tool_use")]
    | Annotated[ToolResultBlock, Tag("@tool_result")]
    | Annotated[ThinkingBlock, Tag("@thinking")]
    | Annotated[RedactedThinkingBlock, Tag("@redacted_thinking")],
    Discriminator(_tag),
    BeforeValidator(_refuse_others),
]
KINDS = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})
TAGS = frozenset("@" + kind for kind in KINDS)
SAID_BY = {"tool_use": "assistant", "tool_result": "user", "thinking": "assistant"}
"""The only role whose messages may hold a kind of block."""


def _listed(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class MessageParam(BaseModel):
    """Several clients send an answer back with all that it had; that is not read."""

    model_config = STRICT

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        list[Block],
        Field(max_length=BLOCKS_MAX, fail_fast=True),
        BeforeValidator(_listed),
        _TEXT_OR_BLOCKS,
    ]
    id: Any = None
    type: Literal["message"] | None = None
    model: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None
    stop_details: Any = None
    usage: Any = None
    container: Any = None

    def told(self) -> Iterator[Message]:
        if self.role == "assistant":
            yield self._answer()
            return
        texts: list[str] = []
        for block in self.content:
            if isinstance(block, TextBlock):
                texts.append(block.text)
            elif isinstance(block, ToolResultBlock):
                yield from self._said(texts)
                texts = []
                yield block.told()
        if texts or not self.content:
            yield from self._said(texts or [""])

    def _said(self, texts: Sequence[str]) -> Iterator[Message]:
        if texts:
            yield {"role": self.role, "content": "\n".join(texts)}

    def _answer(self) -> Message:
        texts = [block.text for block in self.content if isinstance(block, TextBlock)]
        thoughts = [block.thinking for block in self.content if isinstance(block, ThinkingBlock)]
        calls = [block.told() for block in self.content if isinstance(block, ToolUseBlock)]
        return {
            "role": self.role,
            "content": "\n".join(texts),
            **({"reasoning_content": "\n".join(thoughts)} if any(thoughts) else {}),
            **({"tool_calls": calls} if calls else {}),
        }


def system_text(system: Any) -> Any:
    """Blocks as one text, without Claude Code's line about billing."""
    if isinstance(system, list) and system and _is_billing(system[0]):
        system = system[1:]
    return content_text(system)


def _is_billing(block: Any) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and text.startswith(BILLING)


System = Annotated[str, BeforeValidator(system_text), _TEXT_OR_BLOCKS]


def messages_of(system: str | None, messages: Sequence[MessageParam]) -> list[Message]:
    """As a chat template is given them."""
    told: list[Message] = []
    if system:
        told.append({"role": "system", "content": system})
    for message in messages:
        for said in message.told():
            if told and said["role"] == told[-1]["role"] != "tool":
                told[-1] = _joined(told[-1], said)
            else:
                told.append(said)
    return told


def _joined(one: Message, other: Message) -> Message:
    """Two messages of one role: many templates take no two in a row."""
    joined = {**one, **other}
    for name in joined.keys() & {"content", "reasoning_content"}:
        joined[name] = "\n".join(filter(None, (one.get(name), other.get(name))))
    if "tool_calls" in joined:
        joined["tool_calls"] = [*one.get("tool_calls", ()), *other.get("tool_calls", ())]
    return joined


def misplaced(messages: Sequence[MessageParam]) -> Iterator[str]:
    """What is wrong with blocks of which each by itself is right."""
    called: set[str] = set()
    for i, message in enumerate(messages):
        for j, block in enumerate(message.content):
            where = f"messages[{i}].content[{j}]"
            role = SAID_BY.get(block.type, message.role)
            if role != message.role:
                yield f"{where} is a {block.type}, but its role is {message.role}, and not {role}"
            if isinstance(block, ToolUseBlock):
                called.add(block.id)
            elif isinstance(block, ToolResultBlock) and block.tool_use_id not in called:
                yield (
                    f"{where} is the result of {shown(block.tool_use_id)}, but no tool_use before "
                    "it has that id: send the call as well, since nothing is stored here"
                )
