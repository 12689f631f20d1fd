"""What a chat says of tools in the words of OpenAI's chat completions: the functions it offers, how
they are to be chosen, and earlier calls.

Functions alone are tools here. Refuses to know the rest of a request, and what is made of the tools
(`generate/tools.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.generate.tools import Function, FunctionName, Tools
from edgeserve.gateway.text.json_text import cut, parsed, shown

TOOLS_MAX = 128  # OpenAI's
TOOLS_KB_MAX = 256  # a long one takes 2; the model has to read all of it with each request
CHOICES = ("none", "auto", "required")


def few_tools(tools: Any) -> Any:
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


Arguments = Annotated[dict[str, Any], BeforeValidator(_object), WithJsonSchema({"type": "string"})]
"""Of a call, as JSON in a string."""


class Tool(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    function: Function


_Tools = Annotated[list[Tool], Field(max_length=TOOLS_MAX, fail_fast=True)]


class FunctionCalled(BaseModel):
    model_config = STRICT

    name: FunctionName
    arguments: Arguments
    parsed_arguments: Any = None


class ToolCallField(BaseModel):
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

    tool_calls: list[ToolCallField] | None = Field(None, max_length=TOOLS_MAX, fail_fast=True)
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

    tools: Annotated[_Tools | None, BeforeValidator(few_tools)] = Field(
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

    def told_tools(self) -> Tools:
        """The same in no dialect."""
        return Tools(
            functions=[tool.function for tool in self.callable],
            required=[tool.function for tool in self.forced],
            is_single=self.parallel_tool_calls is False or isinstance(self.tool_choice, dict),
        )

    def tool_contradictions(self) -> Iterator[str]:
        functions = [tool.function for tool in self.tools or ()]
        names = [function.name for function in functions]
        yield from function_contradictions(functions)
        if self.tool_choice not in (None, "none", "auto") and not self.forced:
            known = f"known are {shown(', '.join(names))}" if names else "there are no tools"
            yield f"tool_choice is {cut(json.dumps(self.tool_choice))}, but {known}"


def function_contradictions(functions: Sequence[Function]) -> Iterator[str]:
    """What is wrong though each part by itself is right."""
    names = [function.name for function in functions]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"tools has {names.count(name)} functions called {name}: give each its own name"
    for function in functions:
        kind = function.schema_["type"]
        if kind != "object":
            yield (
                f"the parameters of {function.name} are of type {shown(kind)}, but arguments have "
                "names: describe an object"
            )
