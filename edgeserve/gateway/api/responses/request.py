"""The body of POST /v1/responses: what may be asked, and what is said of anything else.

OpenAI's names, flat; how an answer is sampled may be said in the words of the other routes, too,
which mean the same there. Refuses to know the model, its tokens and its chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from edgeserve.gateway.api.body import Body
from edgeserve.gateway.api.chat_prompt import TemplateArguments
from edgeserve.gateway.api.openai.request import NATIVE_ONLY, Stops, listed
from edgeserve.gateway.api.responses import items, tool_fields
from edgeserve.gateway.api.responses.tool_fields import ResponsesToolFields
from edgeserve.gateway.generate.conversation import Conversation, JsonAnswer
from edgeserve.gateway.generate.parameters import COUNT_MAX, STOPS_MAX, STRICT, Parameters

LOGPROBS = "message.output_text.logprobs"
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
"""All but the first ask for parts of items that no answer here has."""
ACCEPTED = frozenset({
    "access_programs", "background_options", "client_metadata", "max_tool_calls", "moderation",
    "prompt_cache_options", "prompt_cache_retention", "service_tier",
})  # fmt: skip
"""Fields that are not read: about accounts, caches and tools that run at OpenAI."""
NOT_SERVED: Mapping[str, tuple[Any, ...]] = {
    "store": (None, False),
    "previous_response_id": (None,),
    "conversation": (None,),
    "background": (None, False),
    "prompt": (None,),
    "truncation": (None, "disabled"),
    "context_management": (None, []),
    "image": (None, {}),
}
"""Fields that are refused by name, and the values that ask for nothing."""
REASONS = {
    "store": "no response is kept",
    "previous_response_id": "no response is kept: send the whole conversation as input",
    "conversation": "no conversation is kept: send all of it as input",
    "background": "no response is kept to be asked for later",
    "prompt": "no prompt is kept: send its text as instructions or input",
    "truncation": "it is for the client to say what may be forgotten",
}
METADATA_MAX = 16  # pairs; this and the lengths are OpenAI's

_Text = Annotated[str, Field(max_length=1024)]
_Label = Annotated[str, Field(max_length=512)]
_Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], _Label], Field(max_length=METADATA_MAX)
]
_SHORT = "a string of at most 1024 characters"


class TextFormat(BaseModel):
    """`strict` or not, the answer is held to the schema. The schema is llguidance's to read."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = Field(None, min_length=1, max_length=64)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextFields(BaseModel):
    model_config = STRICT

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    """Nothing here can follow it."""


class Reasoning(BaseModel):
    """Chat templates know `effort` alone."""

    model_config = STRICT

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Any = None
    context: Any = None
    mode: Any = None


class ResponsesStreamOptions(BaseModel):
    """Of padding that hides how long tokens are: there is none here."""

    model_config = STRICT

    include_obfuscation: bool | None = None


class ResponsesRequest(Parameters, ResponsesToolFields, Body):
    """Each description finishes the sentence '... must be'."""

    HIDDEN = NATIVE_ONLY
    TAGS = items.TAGS | tool_fields.TAGS
    ACCEPTED = ACCEPTED
    NOT_SERVED = NOT_SERVED
    REASONS = REASONS

    model: str | None = Field(
        None,
        max_length=1024,
        description="a name in /v1/models, a path that ends in one, or a placeholder",
    )
    input: Annotated[
        list[items.Item],
        Field(min_length=1, max_length=items.ITEMS_MAX, fail_fast=True),
        BeforeValidator(items.listed),
    ] = Field(
        description=f"a string of at least one character, or a list of 1 to {items.ITEMS_MAX} "
        'items such as {"role": "user", "content": "Hello"}: messages whose role is user, '
        "assistant, system or developer and whose content is a string or a list of text parts, "
        "function_call with an object as JSON for arguments, function_call_output and reasoning",
    )
    instructions: str | None = Field(None, description="a string: the system message")
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        le=COUNT_MAX,
        description="a whole number from 1, at most what the context leaves",
    )
    text: TextFields | None = Field(
        None,
        description='an object such as {"format": {"type": "json_object"}}: type is text, '
        "json_object, or json_schema with a name and a schema",
    )
    include: Annotated[list[Included], Field(max_length=64, fail_fast=True)] | None = Field(
        None, description=f'a list such as ["{LOGPROBS}"] of what OpenAI knows'
    )
    top_logprobs: int | None = Field(None, ge=0, le=20, description="a whole number from 0 to 20")
    reasoning: Reasoning | None = Field(
        None, description='an object such as {"effort": "low"}, or left out'
    )
    chat_template_kwargs: TemplateArguments | None = Field(
        None, description='an object of at most 64 KiB, such as {"enable_thinking": false}'
    )
    stop: Annotated[Stops | None, BeforeValidator(listed)] = Field(
        None, description=f"a string of at most 256 characters, or a list of at most {STOPS_MAX}"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: ResponsesStreamOptions | None = Field(
        None, description='an object such as {"include_obfuscation": false}, or left out'
    )
    metadata: _Metadata | None = Field(
        None,
        description=f"an object of at most {METADATA_MAX} strings of at most 512 characters, under "
        "names of at most 64",
    )
    user: _Text | None = Field(None, description=_SHORT)
    safety_identifier: _Text | None = Field(None, description=_SHORT)
    prompt_cache_key: _Text | None = Field(None, description=_SHORT)
    timing: bool | None = Field(None, description="true or false")

    @property
    def shows_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def conversation(self) -> Conversation:
        """The same in no dialect. OpenAI samples unless told otherwise."""
        effort = self.reasoning and self.reasoning.effort
        sampling = {
            **{name: getattr(self, name) for name in Parameters.model_fields},
            "max_new_tokens": self.max_output_tokens,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_n_tokens": self.top_logprobs or 0,
        }
        return Conversation(
            messages=items.messages_of(self.instructions, self.input),
            answers=[Parameters(**sampling)],
            stop=self.stop or (),
            tools=self.told_tools(),
            held_to=self._json_answer(),
            template_arguments={
                **({"reasoning_effort": effort} if effort else {}),
                **(self.chat_template_kwargs or {}),
            },
        )

    def echoed(self) -> dict[str, Any]:
        """In an answer, which says how its request was understood."""
        text, reasoning = self.text or TextFields(), self.reasoning or Reasoning()
        form = text.format.model_dump(by_alias=True, exclude_none=True) if text.format else None
        return {
            "background": False,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": None,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": reasoning.effort, "summary": None},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {
                "format": form or {"type": "text"},
                "verbosity": text.verbosity,
            },
            "tool_choice": self.echoed_choice(),
            "tools": [tool.echoed() for tool in self.tools or ()],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }

    def contradictions(self) -> Iterator[str]:
        form = self.text and self.text.format
        if form and form.type == "json_schema" and (form.name is None or form.schema_ is None):
            yield "text.format.type is json_schema, but name or schema is missing: give both"
        if form and form.type != "json_schema" and (form.name, form.schema_) != (None, None):
            yield f"text.format.type is {form.type}, but a name or a schema is given: leave it out"
        if self.stream_options is not None and not self.stream:
            yield "stream_options is given, but stream is not true: leave it out"
        yield from self.tool_contradictions()
        yield from items.unanswerable(self.input)

    def _json_answer(self) -> JsonAnswer | None:
        form = self.text and self.text.format
        if not form or form.type == "text":
            return None
        return JsonAnswer(schema=form.schema_, is_strict=bool(form.strict))
