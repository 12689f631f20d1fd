"""What is asked of a chat, in no API's words: every dialect's request becomes one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeserve.gateway.generate.parameters import Parameters
from edgeserve.gateway.generate.tools import Tools
from edgeserve.gateway.text.grammar import ANY_OBJECT, Guides, TokenGuide, json_rules
from edgeserve.gateway.text.json_schema import prepared
from edgeserve.pipeline.generation import Scoring


@dataclass(frozen=True, kw_only=True)
class JsonAnswer:
    """An answer that has to be JSON: any object, or what `schema` allows."""

    schema: Mapping[str, Any] | None = None
    is_strict: bool = False
    """Objects have no properties but those that the schema names."""

    async def guide(self, guides: Guides) -> TokenGuide:
        """Raises Unprocessable for a schema that cannot be followed."""
        schema = ANY_OBJECT if self.schema is None else self.schema
        return await guides.json_schema(schema, "all" if self.is_strict else "none")

    def rule(self) -> str:
        """Its part of a grammar in Lark's dialect. Raises Unprocessable for a schema that asks for
        too much work.
        """
        schema = ANY_OBJECT if self.schema is None else self.schema
        (rule,) = json_rules([prepared(schema, "all" if self.is_strict else "none")])
        return rule


@dataclass(frozen=True, kw_only=True)
class RegexAnswer:
    """An answer all of which matches `pattern`."""

    pattern: str

    async def guide(self, guides: Guides) -> TokenGuide:
        """Raises Unprocessable for an expression that cannot be followed."""
        return await guides.regex(self.pattern)


@dataclass(frozen=True, kw_only=True)
class ChoiceAnswer:
    """An answer that is one of `choices`."""

    choices: Sequence[str]

    async def guide(self, guides: Guides) -> TokenGuide:
        """Raises Unprocessable if there are too many of them."""
        return await guides.choice(self.choices)


HeldTo = JsonAnswer | RegexAnswer | ChoiceAnswer


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A validated chat. Whether it fits the model is the business of `intake.py`."""

    messages: Sequence[Mapping[str, Any]]
    """As a chat template is given them: each has a role and a content, and may have tool_calls and
    a tool_call_id.
    """
    answers: Sequence[Parameters]
    """How each answer is sampled; as many are given."""
    stop: Sequence[str] = ()
    """Strings that end an answer."""
    tools: Tools = field(default_factory=Tools)
    held_to: HeldTo | None = None
    """None: the answer is free text."""
    scoring: Scoring | None = None
    """How likely the tokens of the prompt are, if that is to be known."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, by name."""
    asks_for_answer: bool = True
    """Whether the template is to write how an answer begins, behind the last message."""
    frames_prompt: bool = False
    """Whether the tokenizer puts its own frame around what the template wrote, which has one."""
    cache_salt: str = ""
    """Whoever sends another one shares no pages with it."""

    @property
    def speaks_of_tools(self) -> bool:
        """Whether the chat template has to know tools: for those that may be called, or for calls
        and results among the messages.
        """
        spoken = ("tool_calls", "tool_call_id")
        return bool(self.tools.functions) or any(
            message.get(key) for message in self.messages for key in spoken
        )
