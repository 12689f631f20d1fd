"""What a chat says of tools: the functions it offers, how they are to be chosen, and earlier calls.

Functions alone are tools here. Where one has to be called, the answer is held to a grammar that
writes the call out in the model's own syntax, and the arguments to the function's schema; where the
model may choose, it is free, and what it says is searched for calls. Refuses to know the rest of a
request, how a call is found (`tool_call.py`) and how it is told (`tool_answer.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from edgeserve.gateway.guide import json_rules
from edgeserve.gateway.refusal import cut, parsed, shown
from edgeserve.gateway.request import STRICT
from edgeserve.gateway.tool_call import CallFinder, Syntax

TOOLS_MAX = 128  # OpenAI's
TOOLS_KB_MAX = 256  # a long one takes 2; the model has to read all of it with each request
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
SPACED = {
    "x-guidance": {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
    }
}
"""For llguidance: as templates write the calls that a model has seen. A model that may write spaces
for ever will.
"""
CHOICES = ("none", "auto", "required")

_Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _few(tools: Any) -> Any:
    """And writable: no NaN."""
    if len(json.dumps(tools, ensure_ascii=False, allow_nan=False).encode()) > TOOLS_KB_MAX * 1024:
        raise ValueError
    return tools


def _chosen(choice: Any) -> Any:
    name = choice["function"].get("name") if _is_function(choice) else None
    if choice not in CHOICES and choice != _naming(name):
        raise ValueError
    return choice


def _is_function(choice: Any) -> bool:
    return isinstance(choice, dict) and isinstance(choice.get("function"), dict)


def _naming(name: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _object(text: Any) -> Any:
    """Templates write arguments as JSON, and so want what they hold."""
    try:
        arguments = parsed(text or "{}")
    except (TypeError, RecursionError):
        raise ValueError from None
    json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
    if not isinstance(arguments, dict):
        raise ValueError  # noqa: TRY004  # pydantic makes a refusal of this one alone
    return arguments


class Function(BaseModel):
    """`strict` or not, a call that is asked for follows the schema; one that the model chose itself
    may not.
    """

    model_config = STRICT

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema_(self) -> dict[str, Any]:
        """Of the arguments: always an object."""
        return NO_PARAMETERS if self.parameters is None else {"type": "object", **self.parameters}


class Tool(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    function: Function

    def told(self) -> dict[str, Any]:
        """What a chat template is given: what templates expect, in the order that they expect."""
        function = self.function
        description = {} if function.description is None else {"description": function.description}
        told = {"name": function.name, **description, "parameters": function.schema_}
        return {"type": "function", "function": told}


_Tools = Annotated[list[Tool], Field(max_length=TOOLS_MAX, fail_fast=True)]


class FunctionCalled(BaseModel):
    model_config = STRICT

    name: _Name
    arguments: Annotated[
        dict[str, Any], BeforeValidator(_object), WithJsonSchema({"type": "string"})
    ]
    parsed_arguments: Any = None


class ToolCall(BaseModel):
    """An earlier one. OpenAI's client, which puts it together from a stream, sends its `index`
    along, and what it made of the arguments; neither is read.
    """

    model_config = STRICT

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: FunctionCalled
    index: int | None = None

    def told(self) -> dict[str, Any]:
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": self.type, "function": function}


class CallFields(BaseModel):
    """Of a message."""

    model_config = STRICT

    tool_calls: list[ToolCall] | None = Field(None, max_length=TOOLS_MAX, fail_fast=True)
    tool_call_id: str | None = Field(None, min_length=1, max_length=256)

    @model_validator(mode="before")
    @classmethod
    def _may_be_nothing_else(cls, message: Any) -> Any:
        """Templates are given a content in any case: some add to it without a look."""
        if isinstance(message, dict) and message.get("tool_calls"):
            return {**message, "content": message.get("content") or ""}
        return message

    def told_calls(self) -> dict[str, Any]:
        calls = [call.told() for call in self.tool_calls or ()]
        return {"tool_calls": calls} if calls else {}

    def call_contradictions(self, where: str, role: str) -> Iterator[str]:
        if role == "tool" and self.tool_call_id is None:
            yield f"{where} is of role tool, but has no tool_call_id: say which call it answers"
        if role != "tool" and self.tool_call_id is not None:
            yield f"{where} is of role {role}, but has a tool_call_id: leave it out"
        if role != "assistant" and self.tool_calls:
            yield f"{where} is of role {role}, but has tool_calls: leave them out"


class ToolFields(BaseModel):
    """Of a chat. Each description finishes the sentence '... must be'."""

    model_config = STRICT

    tools: Annotated[_Tools | None, BeforeValidator(_few)] = Field(
        None,
        description=f"a list of at most {TOOLS_MAX} functions, of {TOOLS_KB_MAX} KiB together, such"
        ' as {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}',
    )
    tool_choice: (
        Annotated[Any, BeforeValidator(_chosen), WithJsonSchema({"type": ["string", "object"]})]
        | None
    ) = Field(
        None,
        description="none, auto, required, or a function such as "
        '{"type": "function", "function": {"name": "f"}}',
    )
    parallel_tool_calls: bool | None = Field(None, description="true or false")

    @property
    def callable(self) -> Sequence[Tool]:
        """What the model may call."""
        return () if self.tool_choice == "none" else self.tools or ()

    @property
    def forced(self) -> Sequence[Tool]:
        """Of these it has to call one."""
        if isinstance(self.tool_choice, dict):
            name = self.tool_choice["function"]["name"]
            return [tool for tool in self.callable if tool.function.name == name]
        return self.callable if self.tool_choice == "required" else ()

    def tool_contradictions(self) -> Iterator[str]:
        names = [tool.function.name for tool in self.tools or ()]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"tools has {names.count(name)} functions called {name}: give each its own name"
        for tool in self.tools or ():
            kind = tool.function.schema_["type"]
            if kind != "object":
                yield (
                    f"the parameters of {tool.function.name} are of type {shown(kind)}, but "
                    "arguments have names: describe an object"
                )
        if self.tool_choice not in (None, "none", "auto") and not self.forced:
            known = f"known are {shown(', '.join(names))}" if names else "there are no tools"
            yield f"tool_choice is {cut(json.dumps(self.tool_choice))}, but {known}"


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """What one chat makes of its tools with a model that calls in `syntax`."""

    asked: ToolFields
    syntax: Syntax

    def told(self) -> list[dict[str, Any]]:
        return [tool.told() for tool in self.asked.callable]

    def finder(self) -> CallFinder:
        names = (tool.function.name for tool in self.asked.callable)
        return CallFinder(self.syntax, names, calls_max=1 if self._calls_once else None)

    def grammar(self) -> str | None:
        """In llguidance's dialect of Lark; None if the model may say what it wants. Raises
        Unprocessable for schemas that ask for too much work.
        """
        forced = self.asked.forced
        if not forced:
            return None
        joint = json.dumps(self.syntax.joint)
        more = "" if self._calls_once else f" ({joint} call)*"
        kinds = [f"f{i}" for i in range(len(forced))]
        rules = [f"start: call{more}", f"call: {self._within_tags(' | '.join(kinds))}"]
        schemas = json_rules([tool.function.schema_ for tool in forced], SPACED)
        calls = (self._written(t.function.name, s) for t, s in zip(forced, schemas, strict=True))
        return "\n".join([*rules, *map("{}: {}".format, kinds, calls)])

    @property
    def _calls_once(self) -> bool:
        return self.asked.parallel_tool_calls is False or isinstance(self.asked.tool_choice, dict)

    def _within_tags(self, rule: str) -> str:
        if not self.syntax.opening:
            return rule
        tags = (self.syntax.opening + "\n", "\n" + self.syntax.closing)
        return f"{json.dumps(tags[0])} ({rule}) {json.dumps(tags[1])}"

    def _written(self, name: str, arguments: str) -> str:
        head = f'{{"name": "{name}", "{self.syntax.arguments}": '
        return f'{json.dumps(head)} {arguments} "}}"'
