"""What a request for messages may say of tools: those that the client describes itself, and how
they are to be chosen.

Tools that Anthropic describes or runs are refused by name. Refuses to know the rest of a request,
and what is made of the tools (`generate/tools.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from edgeserve.gateway.api.messages.blocks import ToolName, refused
from edgeserve.gateway.api.tool_request import (
    TOOLS_KB_MAX,
    TOOLS_MAX,
    few_tools,
    function_contradictions,
)
from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.generate.tools import Function, Tools
from edgeserve.gateway.text.json_text import shown


def _described_alone(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind is not None and kind != "custom":
        raise refused(
            f"is of type {shown(kind)}, but only tools with an input_schema of their own can be "
            "called here: describe it so, without a type, or leave it out"
        )
    return tool


class _Function(Function):
    name: ToolName


class MessagesTool(BaseModel):
    """What is said of caches, examples, and who may call it, is not read."""

    model_config = STRICT

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    defer_loading: Literal[False] | None = None
    cache_control: Any = None
    allowed_callers: Any = None
    eager_input_streaming: Any = None
    input_examples: Any = None

    @property
    def function(self) -> Function:
        return _Function(
            name=self.name,
            description=self.description,
            parameters=self.input_schema,
            strict=self.strict,
        )


class ToolChoice(BaseModel):
    model_config = STRICT

    type: Literal["auto", "any", "tool", "none"]
    name: ToolName | None = None
    disable_parallel_tool_use: bool | None = None


_Tools = Annotated[
    list[Annotated[MessagesTool, BeforeValidator(_described_alone)]],
    Field(max_length=TOOLS_MAX, fail_fast=True),
]


class MessagesToolFields(BaseModel):
    """Each description finishes the sentence '... must be'."""

    model_config = STRICT

    tools: Annotated[_Tools | None, BeforeValidator(few_tools)] = Field(
        None,
        description=f"a list of at most {TOOLS_MAX} tools, of {TOOLS_KB_MAX} KiB together, such as "
        '{"name": "f", "input_schema": {"type": "object"}}',
    )
    tool_choice: ToolChoice | None = Field(
        None,
        description='an object such as {"type": "tool", "name": "f"}: type is auto, any, tool or '
        "none",
    )

    def told_tools(self) -> Tools:
        """The same in no dialect."""
        choice = self.tool_choice or ToolChoice(type="auto")
        if choice.type == "none":
            return Tools()
        functions = self._functions()
        required = {
            "auto": [],
            "any": functions,
            "tool": [each for each in functions if each.name == choice.name],
        }
        return Tools(
            functions=functions,
            required=required[choice.type],
            is_single=choice.type == "tool" or bool(choice.disable_parallel_tool_use),
        )

    def tool_contradictions(self) -> Iterator[str]:
        yield from function_contradictions(self._functions())
        choice = self.tool_choice
        if choice is None:
            return
        names = [tool.name for tool in self.tools or ()]
        known = f"known are {shown(', '.join(names))}" if names else "there are no tools"
        if (choice.type == "tool") != (choice.name is not None):
            yield "tool_choice has a name if its type is tool, and only then: set both, or neither"
        elif choice.name is not None and choice.name not in names:
            yield f"tool_choice names {shown(choice.name)}, but {known}"
        elif choice.type == "any" and not names:
            yield f"tool_choice is of type any, but {known}"

    def _functions(self) -> Sequence[Function]:
        return [tool.function for tool in self.tools or ()]
