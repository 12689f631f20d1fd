"""The functions that a model may call in one chat, and how its answer is held to them.

Where one has to be called, the answer is held to a grammar that writes the call out in the model's
own syntax, and the arguments to the function's schema; where the model may choose, it is free, and
what it says is searched for calls. Refuses to know how a request names all this, and how a call is
found (`tool_call.py`) and told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field

from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.text.grammar import json_rules
from edgeserve.gateway.text.json_schema import prepared
from edgeserve.gateway.text.tool_call import CallFinder, Syntax

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

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class Function(BaseModel):
    """`strict` or not, a call that is asked for follows the schema; one that the model chose itself
    may not.
    """

    model_config = STRICT

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def schema_(self) -> dict[str, Any]:
        """Of the arguments: always an object."""
        return NO_PARAMETERS if self.parameters is None else {"type": "object", **self.parameters}

    @property
    def held_to(self) -> dict[str, Any]:
        """What a call that is asked for follows: no function takes arguments that it does not
        name, and a model that could make some up might never come to an end.
        """
        return prepared(self.schema_, "all" if self.strict else "named")

    def told(self) -> dict[str, Any]:
        """What a chat template is given: what templates expect, in the order that they expect."""
        description = {} if self.description is None else {"description": self.description}
        told = {"name": self.name, **description, "parameters": self.schema_}
        return {"type": "function", "function": told}


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What a conversation says of functions, in no dialect."""

    functions: Sequence[Function] = ()
    """Those that may be called, and that the model is told of."""
    required: Sequence[Function] = ()
    """One of these has to be called; empty if the model may choose."""
    is_single: bool = False
    """At most one call may come in one answer."""


@dataclass(frozen=True, kw_only=True)
class ToolUse:
    """What one chat makes of its tools with a model that calls in `syntax`."""

    tools: Tools
    syntax: Syntax

    def told(self) -> list[dict[str, Any]]:
        return [function.told() for function in self.tools.functions]

    def finder(self) -> CallFinder:
        names = (function.name for function in self.tools.functions)
        return CallFinder(self.syntax, names, calls_max=1 if self.tools.is_single else None)

    def grammar(self, answer: str | None = None) -> str | None:
        """In llguidance's dialect of Lark; None if the model may say what it wants. `answer` is the
        rule of what it may say instead of a call, unless it has to call. Raises Unprocessable for
        schemas that ask for too much work.
        """
        if not self.tools.required and answer is None:
            return None
        callable_ = self.tools.required or self.tools.functions
        joint = json.dumps(self.syntax.joint)
        more = "" if self.tools.is_single else f" ({joint} call)*"
        instead = "" if self.tools.required else f" | {answer}"
        kinds = [f"f{i}" for i in range(len(callable_))]
        rules = [f"start: call{more}{instead}", f"call: {self._within_tags(' | '.join(kinds))}"]
        schemas = json_rules([each.held_to for each in callable_], SPACED)
        calls = (self._written(f.name, s) for f, s in zip(callable_, schemas, strict=True))
        return "\n".join([*rules, *map("{}: {}".format, kinds, calls)])

    def _within_tags(self, rule: str) -> str:
        if not self.syntax.opening:
            return rule
        tags = (self.syntax.opening + "\n", "\n" + self.syntax.closing)
        return f"{json.dumps(tags[0])} ({rule}) {json.dumps(tags[1])}"

    def _written(self, name: str, arguments: str) -> str:
        """Part by part, as JSON has them: one long part would win over an answer in JSON that
        begins alike.
        """
        key = f'"{self.syntax.arguments}"'
        head = ("{", '"name"', ": ", f'"{name}"', ", ", key, ": ")
        return f'{" ".join(map(json.dumps, head))} {arguments} "}}"'
