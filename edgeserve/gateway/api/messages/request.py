"""The bodies of POST /v1/messages and /v1/messages/count_tokens: what may be asked, and what is
said of anything else.

Anthropic's names; how an answer is sampled may be said in the words of the other routes, too, which
mean the same there. Refuses to know the model, its tokens and its chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from edgeserve.gateway.api.body import Body
from edgeserve.gateway.api.chat_prompt import TemplateArguments
from edgeserve.gateway.api.messages import blocks
from edgeserve.gateway.api.messages.tool_fields import MessagesToolFields
from edgeserve.gateway.api.openai.request import NATIVE_ONLY, Stops
from edgeserve.gateway.generate.conversation import Conversation, JsonAnswer
from edgeserve.gateway.generate.parameters import COUNT_MAX, STOPS_MAX, STRICT, Parameters

ACCEPTED = frozenset({
    "anthropic_version", "billing_policy", "cache_control", "fallback_credit_token",
    "inference_geo", "metadata", "service_tier", "user_profile_id", "workspace_id",
})  # fmt: skip
"""Fields that are not read: about accounts, caches, and where a model runs."""
KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
"""What Claude Code sends with each request. It asks for nothing to be cleared."""
NOT_SERVED: Mapping[str, tuple[Any, ...]] = {
    "container": (None,),
    "context_management": (None, {}, {"edits": []}, KEEPS_ALL),
    "mcp_servers": (None, []),
    "betas": (None, []),
    "compaction": (None,),
    "diagnostics": (None,),
    "fallbacks": (None, []),
    "speed": (None, "standard"),
    "thread": (None,),
}
"""Fields that are refused by name, and the values that ask for nothing."""
REASONS = {
    "container": "nothing runs here but the model",
    "context_management": "it is for the client to say what may be forgotten",
    "mcp_servers": "the gateway calls nobody: call them yourself, as tools",
    "betas": "they belong into the header anthropic-beta, which is not read",
    "compaction": "it is for the client to say what may be forgotten",
    "thread": "no conversation is kept: send all of it as messages",
}


class JsonFormat(BaseModel):
    """The answer is held to the schema, which is llguidance's to read."""

    model_config = STRICT

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(BaseModel):
    model_config = STRICT

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class Thinking(BaseModel):
    """Chat templates know whether, and not how long: the budget is not read."""

    model_config = STRICT

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: int | None = Field(None, ge=1, le=COUNT_MAX)
    display: Literal["summarized", "omitted"] | None = None

    @property
    def template_arguments(self) -> dict[str, Any]:
        """Where the model may choose, the template's own default holds."""
        known = {"enabled": True, "disabled": False}
        return {"enable_thinking": known[self.type]} if self.type in known else {}


class MessagesPrompt(MessagesToolFields, Body):
    """What becomes the prompt. Each description finishes the sentence '... must be'."""

    TAGS = blocks.TAGS
    ACCEPTED = ACCEPTED
    NOT_SERVED = NOT_SERVED
    REASONS = REASONS

    model: str | None = Field(
        None,
        max_length=1024,
        description="a name in /v1/models, a path that ends in one, or a placeholder",
    )
    messages: Annotated[
        list[blocks.MessageParam],
        Field(min_length=1, max_length=blocks.MESSAGES_MAX, fail_fast=True),
    ] = Field(
        description=f"a list of 1 to {blocks.MESSAGES_MAX} messages such as "
        '{"role": "user", "content": "Hello"}: role is user, assistant or system, content a string '
        "or a list of blocks of type text, tool_use, tool_result, thinking or redacted_thinking",
    )
    system: blocks.System | None = Field(
        None, description="a string, or a list of blocks of type text"
    )
    thinking: Thinking | None = Field(
        None,
        description='an object such as {"type": "disabled"}: type is enabled (with budget_tokens), '
        "disabled, adaptive or between_tools",
    )
    output_config: OutputConfig | None = Field(
        None,
        description='an object such as {"format": {"type": "json_schema", "schema": {}}} or '
        '{"effort": "low"}',
    )
    output_format: JsonFormat | None = Field(
        None, description='an object such as {"type": "json_schema", "schema": {}}'
    )
    chat_template_kwargs: TemplateArguments | None = Field(
        None, description='an object of at most 64 KiB, such as {"enable_thinking": false}'
    )

    def conversation(self) -> Conversation:
        """The same in no dialect."""
        effort = self.output_config and self.output_config.effort
        return Conversation(
            messages=blocks.messages_of(self.system, self.messages),
            answers=[self._sampling()],
            stop=self._stop(),
            tools=self.told_tools(),
            held_to=self._json_answer(),
            template_arguments={
                **({"reasoning_effort": effort} if effort else {}),
                **(self.thinking.template_arguments if self.thinking else {}),
                **(self.chat_template_kwargs or {}),
            },
        )

    def contradictions(self) -> Iterator[str]:
        yield from self.tool_contradictions()
        yield from blocks.misplaced(self.messages)
        if self.output_format and self.output_config and self.output_config.format:
            yield "output_format and output_config.format are both given: leave output_format out"

    def _sampling(self) -> Parameters:
        return Parameters.model_validate({})

    def _stop(self) -> list[str]:
        return []

    def _json_answer(self) -> JsonAnswer | None:
        form = (self.output_config and self.output_config.format) or self.output_format
        return None if form is None else JsonAnswer(schema=form.schema_, is_strict=True)


class CountRequest(MessagesPrompt):
    """Of POST /v1/messages/count_tokens."""


class MessagesRequest(Parameters, MessagesPrompt):
    """Each description finishes the sentence '... must be'."""

    HIDDEN = NATIVE_ONLY | {"stop"}

    max_tokens: int = Field(
        ge=1, le=COUNT_MAX, description="a whole number from 1, at most what the context leaves"
    )
    stop_sequences: Stops | None = Field(
        None, description=f"a list of at most {STOPS_MAX} strings of 1 to 256 characters"
    )
    stream: bool | None = Field(None, description="true or false")
    timing: bool | None = Field(None, description="true or false")

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.messages[-1].role == "assistant":
            yield (
                "messages ends with what the assistant said, which an answer cannot go on with "
                "here: end with a message of the user, and say the form in output_config.format"
            )

    def _sampling(self) -> Parameters:
        """Anthropic samples unless told otherwise."""
        sampling = {
            **{name: getattr(self, name) for name in Parameters.model_fields},
            "max_new_tokens": self.max_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
        }
        return Parameters(**sampling)

    def _stop(self) -> list[str]:
        return self.stop_sequences or []
