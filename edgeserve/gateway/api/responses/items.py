"""What the input of a response may hold, and the messages that a chat template is given for it.

An answer of ours can be sent back as it came. A call and what its function said are items of their
own there, and belong to messages here:

    message (assistant) ─┐
    function_call        ├─ one message of role assistant, with the calls
    function_call        ┘
    function_call_output ── a message of role tool

Refuses to know the rest of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema
from pydantic_core import PydanticCustomError

from edgeserve.gateway.api.message_content import content_text
from edgeserve.gateway.api.tool_request import Arguments
from edgeserve.gateway.api.validation import REFUSED
from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.generate.tools import FunctionName
from edgeserve.gateway.text.json_text import shown

ITEMS_MAX = 4096  # twice the messages of a chat: a call and its output are two
INSTEAD = {
    "item_reference": "nothing is stored here: send the item itself, as clients do that are told "
    "that store is false",
    "compaction": "only OpenAI can read it: send the items that it stands for",
}
"""What to do about some kinds of items that are not served."""

CallId = Annotated[str, Field(min_length=1, max_length=256)]
Content = Annotated[
    str,
    BeforeValidator(content_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array"}]}),
]


def refused(why: str) -> PydanticCustomError:
    """`why` goes on after the name of what is refused."""
    return PydanticCustomError(REFUSED, "{why}", {"why": why})


def _kind(item: Any) -> str:
    """A message need not say that it is one, nor a reference."""
    if not isinstance(item, dict):
        return ""
    kind = item.get("type")
    if kind is None:
        kind = "item_reference" if item.keys() <= {"id", "type"} else "message"
    return kind if isinstance(kind, str) else ""


def _tag(item: Any) -> str:
    return "@" + _kind(item)


def _refuse_others(item: Any) -> Any:
    kind = _kind(item)
    if isinstance(item, dict) and kind not in KINDS:
        known = "known are " + ", ".join(sorted(KINDS))
        raise refused(f"is of type {shown(kind)}, which is not served: {INSTEAD.get(kind, known)}")
    return item


class _Item(BaseModel):
    """What OpenAI's own items say besides is known and not read."""

    model_config = STRICT

    id: str | None = Field(None, max_length=256)
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class MessageItem(_Item):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Any = None
    end_turn: Any = None


class CallItem(_Item):
    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: Arguments
    namespace: None = None
    caller: Any = None
    async_: Any = Field(None, alias="async")

    def told(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class OutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Content
    name: Any = None
    namespace: None = None
    caller: Any = None


class SummaryPart(BaseModel):
    model_config = STRICT

    type: Literal["summary_text"]
    text: str


class ThoughtPart(BaseModel):
    model_config = STRICT

    type: Literal["reasoning_text", "text"]
    text: str


class ReasoningItem(_Item):
    """Its content is what the model thought. Its summary was written for people, and what is
    encrypted only OpenAI can read: neither is read here.
    """

    type: Literal["reasoning"]
    summary: list[SummaryPart] | None = None
    content: list[ThoughtPart] | None = None
    encrypted_content: str | None = None

    @property
    def thought(self) -> str:
        return "\n".join(part.text for part in self.content or ())


Item = Annotated[
    Annotated[MessageItem, Tag("@message")]
    | Annotated[CallItem, Tag("@function_call")]
    | Annotated[OutputItem, Tag("@function_call_output")]
    | Annotated[ReasoningItem, Tag("@reasoning")],
    Discriminator(_tag),
    BeforeValidator(_refuse_others),
]
KINDS = frozenset({"message", "function_call", "function_call_output", "reasoning"})
TAGS = frozenset("@" + kind for kind in KINDS)


def listed(value: Any) -> Any:
    """A text is a message of its user."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}] if value else []
    return value


def messages_of(instructions: str | None, items: Sequence[Item]) -> list[dict[str, Any]]:
    """As a chat template is given them."""
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    thought = ""
    for item in items:
        if isinstance(item, ReasoningItem):
            thought = "\n".join(filter(None, (thought, item.thought)))
        elif isinstance(item, OutputItem):
            said = {"role": "tool", "tool_call_id": item.call_id, "content": item.output}
            messages.append(said)
        elif isinstance(item, CallItem):
            _caller(messages, thought).setdefault("tool_calls", []).append(item.told())
            thought = ""
        else:
            thinks = {"reasoning_content": thought} if item.role == "assistant" and thought else {}
            messages.append({"role": item.role, "content": item.content, **thinks})
            thought = ""
    return messages


def unanswerable(items: Sequence[Item]) -> Iterator[str]:
    """What is wrong with the order of items of which each by itself is right."""
    called: set[str] = set()
    for i, item in enumerate(items):
        if isinstance(item, CallItem):
            called.add(item.call_id)
        elif isinstance(item, OutputItem) and item.call_id not in called:
            yield (
                f"input[{i}] is the output of call {shown(item.call_id)}, but no function_call "
                "before it has that call_id: send the call as well, since nothing is stored here"
            )


def _caller(messages: list[dict[str, Any]], thought: str) -> dict[str, Any]:
    """The message that a call belongs to: the one before, if it is the model's, or else a new
    one.
    """
    if not (messages and messages[-1]["role"] == "assistant" and not thought):
        thinks = {"reasoning_content": thought} if thought else {}
        messages.append({"role": "assistant", "content": "", **thinks})
    return messages[-1]
