"""What of a chat becomes its prompt: messages, tools, and variables of the chat template. Refuses
to know the template, and how answers are generated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from edgeserve.gateway.api.message_content import content_text
from edgeserve.gateway.api.tool_request import CallFields, ToolFields
from edgeserve.gateway.api.validation import REFUSED
from edgeserve.gateway.generate.parameters import STRICT

MESSAGES_MAX = 2048
TEMPLATE_ARGUMENTS_BYTES_MAX = 2**16


def _few(arguments: Any) -> Any:
    """And writable: no NaN, and no half of a surrogate pair."""
    text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
    if len(text.encode()) > TEMPLATE_ARGUMENTS_BYTES_MAX:
        raise ValueError
    return arguments


TemplateArguments = Annotated[dict[str, Any], BeforeValidator(_few)]


def _role(role: Any) -> Any:
    if role == "function":
        why = 'is "function", which is not supported: send role tool, with a tool_call_id'
        raise PydanticCustomError(REFUSED, "{why}", {"why": why})
    return role


class Message(CallFields):
    """An answer of ours can be sent back as it came, nulls included, and so can one of others: what
    they add to it is not read.
    """

    model_config = STRICT

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"], BeforeValidator(_role)
    ]
    content: Annotated[str, BeforeValidator(content_text)]
    name: str | None = Field(None, max_length=256)
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """The same by vLLM's newer name."""
    audio: None = None
    function_call: None = None
    prefix: Literal[False] | None = None
    annotations: Any = None
    parsed: Any = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None
    cache_control: Any = None
    id: Any = None

    @model_validator(mode="before")
    @classmethod
    def _may_say_nothing(cls, message: Any) -> Any:
        """An assistant that only thought, called or refused. Templates are given a content in any
        case.
        """
        if not isinstance(message, dict) or message.get("role") != "assistant":
            return message
        if message.get("content") is not None:
            return message
        return {**message, "content": message.get("refusal") or ""}

    def told(self) -> dict[str, Any]:
        """To a chat template, which may ask whether something is there."""
        told = {"role", "content", "name", "tool_call_id"}
        thought = self.reasoning_content or self.reasoning
        return {
            **self.model_dump(include=told, exclude_none=True),
            **({"reasoning_content": thought} if thought else {}),
            **self.told_calls(),
        }


class ChatPromptFields(ToolFields):
    """Each description finishes the sentence '... must be'."""

    messages: list[Message] = Field(
        min_length=1,
        max_length=MESSAGES_MAX,
        fail_fast=True,
        description=f"a list of 1 to {MESSAGES_MAX} messages such as "
        '{"role": "user", "content": "Hello"}: role is system, developer, user, assistant or tool, '
        "content a string or a list of text parts, arguments of a call an object as JSON",
    )
    chat_template_kwargs: TemplateArguments | None = Field(
        None, description='an object of at most 64 KiB, such as {"enable_thinking": false}'
    )
    reasoning_effort: str | None = Field(
        None, max_length=64, description="a string of at most 64 characters, such as low"
    )
    add_generation_prompt: bool | None = Field(None, description="true or false")

    @property
    def template_arguments(self) -> dict[str, Any]:
        """Variables of the chat template that the client sets."""
        effort = self.reasoning_effort
        return {
            **({} if effort is None else {"reasoning_effort": effort}),
            **(self.chat_template_kwargs or {}),
        }

    def prompt_contradictions(self) -> Iterator[str]:
        """What is wrong though each field by itself is right."""
        yield from self.tool_contradictions()
        for i, message in enumerate(self.messages):
            yield from message.call_contradictions(f"messages[{i}]", message.role)
