"""What a response may say of tools: functions, flat, and how they are to be chosen.

Tools that OpenAI runs on its own machines are refused by name. Refuses to know the rest of a
request, and what is made of the tools (`generate/tools.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from edgeserve.gateway.api.responses.items import refused
from edgeserve.gateway.api.tool_request import (
    TOOLS_KB_MAX,
    TOOLS_MAX,
    few_tools,
    function_contradictions,
)
from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.generate.tools import Function, FunctionName, Tools
from edgeserve.gateway.text.json_text import shown

ONLY = "only functions can be called here: leave it out"


def _function_alone(tool: Any) -> Any:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind is not None and kind != "function":
        raise refused(f"is of type {shown(kind)}, but {ONLY}")
    return tool


class FunctionTool(Function):
    """What is said of where a function runs, and of what it gives back, is not read."""

    model_config = STRICT

    type: Literal["function"]
    output_schema: Any = None
    allowed_callers: Any = None
    defer_loading: Literal[False] | None = None
    async_: Literal[False] | None = Field(None, alias="async")

    def echoed(self) -> dict[str, Any]:
        """In an answer, which says how its tools were understood."""
        return {
            "type": "function",
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "strict": self.strict,
        }


class NamedFunction(BaseModel):
    model_config = STRICT

    type: Literal["function"]
    name: FunctionName


class AllowedTools(BaseModel):
    model_config = STRICT

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[Annotated[NamedFunction, BeforeValidator(_function_alone)]] = Field(
        min_length=1, max_length=TOOLS_MAX, fail_fast=True
    )


def _tag(choice: Any) -> str:
    return f"@{choice.get('type')}" if isinstance(choice, dict) else "@word"


def _known_kind(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") not in ("function", "allowed_tools"):
        raise refused(f"is of type {shown(choice.get('type'))}, but {ONLY}")
    return choice


_Tools = Annotated[
    list[Annotated[FunctionTool, BeforeValidator(_function_alone)]],
    Field(max_length=TOOLS_MAX, fail_fast=True),
]
_Choice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("@word")]
    | Annotated[NamedFunction, Tag("@function")]
    | Annotated[AllowedTools, Tag("@allowed_tools")],
    Discriminator(_tag),
    BeforeValidator(_known_kind),
]
TAGS = frozenset({"@word", "@function", "@allowed_tools"})


class ResponsesToolFields(BaseModel):
    """Each description finishes the sentence '... must be'."""

    model_config = STRICT

    tools: Annotated[_Tools | None, BeforeValidator(few_tools)] = Field(
        None,
        description=f"a list of at most {TOOLS_MAX} functions, of {TOOLS_KB_MAX} KiB together, such"
        ' as {"type": "function", "name": "f", "parameters": {"type": "object"}}',
    )
    tool_choice: _Choice | None = Field(
        None,
        description="none, auto, required, a function such as "
        '{"type": "function", "name": "f"}, or some of them such as {"type": "allowed_tools", '
        '"mode": "auto", "tools": [{"type": "function", "name": "f"}]}',
    )
    parallel_tool_calls: bool | None = Field(None, description="true or false")

    def told_tools(self) -> Tools:
        """The same in no dialect."""
        choice, functions = self.tool_choice, self.tools or ()
        if choice == "none":
            return Tools()
        is_forced = choice == "required"
        if isinstance(choice, AllowedTools):
            functions, is_forced = self._named(choice.tools), choice.mode == "required"
        required = functions if is_forced else ()
        if isinstance(choice, NamedFunction):
            required = self._named([choice])
        return Tools(
            functions=functions,
            required=required,
            is_single=self.parallel_tool_calls is False or isinstance(choice, NamedFunction),
        )

    def echoed_choice(self) -> Any:
        choice = self.tool_choice
        return choice.model_dump() if isinstance(choice, BaseModel) else choice or "auto"

    def tool_contradictions(self) -> Iterator[str]:
        yield from function_contradictions(self.tools or ())
        choice = self.tool_choice
        names = [tool.name for tool in self.tools or ()]
        known = f"known are {shown(', '.join(names))}" if names else "there are no tools"
        if choice == "required" and not names:
            yield f'tool_choice is "required", but {known}'
        for named in _named_by(choice):
            if named.name not in names:
                yield f"tool_choice names {shown(named.name)}, but {known}"

    def _named(self, wanted: Sequence[NamedFunction]) -> list[FunctionTool]:
        names = {each.name for each in wanted}
        return [tool for tool in self.tools or () if tool.name in names]


def _named_by(choice: Any) -> Sequence[NamedFunction]:
    if isinstance(choice, AllowedTools):
        return choice.tools
    return [choice] if isinstance(choice, NamedFunction) else []
