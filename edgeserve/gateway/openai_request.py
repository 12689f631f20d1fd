"""The bodies of OpenAI's routes: what may be asked, and what is said of anything else.

OpenAI's names, flat; what they share with `/generate` means the same and has the same bounds. As
there, what is not served is refused by name, and what nobody knows is an error with a suggestion:
of all that a client may send, `user` alone is not read.

What this module refuses to know: the model, its tokens and its chat template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from edgeserve.families.sampling import SEED_MAX
from edgeserve.gateway.api.body import Body
from edgeserve.gateway.generate.conversation import Conversation, JsonAnswer
from edgeserve.gateway.request import COUNT_MAX, STRICT, Parameters, StopString
from edgeserve.gateway.tool_request import CallFields, ToolFields

CHOICES_MAX = 16  # OpenAI has 128; here each holds pages for its worst case
MESSAGES_MAX = 2048
NATIVE_ONLY = frozenset({
    "max_new_tokens", "do_sample", "truncate", "return_full_text", "details", "top_n_tokens",
    "grammar",
})  # fmt: skip
"""Names of `/generate` that OpenAI has other words for, or none."""
NOT_SERVED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "suffix": (None, ""),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "store": (None, False),
    "metadata": (None, {}),
    "service_tier": (None, "auto", "default"),
}
"""OpenAI's fields that are not served here, and the values that ask for nothing."""

_COUNT = "a whole number from 1, at most what the context leaves"
_Stops = Annotated[list[StopString], Field(max_length=4, fail_fast=True)]


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _prompts(value: Any) -> Any:
    """One prompt or several, each a text or its tokens, as a list of several."""
    prompts = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= CHOICES_MAX:
        raise ValueError
    if not all(_is_text(each) or _is_tokens(each) for each in prompts):
        raise ValueError
    return prompts


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and value != []
        and all(type(each) is int and 0 <= each <= COUNT_MAX for each in value)
    )


def _joined(content: Any) -> Any:
    """Text parts as one text, each on a line of its own, as vLLM has it."""
    if not isinstance(content, list):
        return content
    if not all(
        isinstance(part, dict)
        and part.keys() == {"type", "text"}
        and part["type"] == "text"
        and isinstance(part["text"], str)
        for part in content
    ):
        raise ValueError
    return "\n".join(part["text"] for part in content)


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: bool | None = None


class JsonSchema(BaseModel):
    """`strict` or not, the answer is held to the schema. The schema is llguidance's to read."""

    model_config = STRICT

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Message(CallFields):
    """An answer of ours can be sent back as it came, nulls included."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_joined)]
    name: str | None = Field(None, max_length=256)
    refusal: None = None
    annotations: None = None
    audio: None = None
    parsed: None = None
    function_call: None = None

    def told(self) -> dict[str, Any]:
        """To a chat template, which may ask whether something is there."""
        told = {"role", "content", "name", "tool_call_id"}
        return self.model_dump(include=told, exclude_none=True) | self.told_calls()


class OpenAIRequest(Parameters, Body):
    """What both routes take. Each description finishes the sentence '... must be'."""

    NOT_SERVED = NOT_SERVED
    HIDDEN = NATIVE_ONLY

    model: str | None = Field(
        None,
        max_length=1024,
        description="a name in /v1/models, a path that ends in one, or a placeholder",
    )
    max_tokens: int | None = Field(None, ge=1, le=COUNT_MAX, description=_COUNT)
    max_completion_tokens: int | None = Field(None, ge=1, le=COUNT_MAX, description=_COUNT)
    n: int | None = Field(
        None, ge=1, le=CHOICES_MAX, description=f"a whole number from 1 to {CHOICES_MAX}"
    )
    stop: Annotated[_Stops | None, BeforeValidator(_listed)] = Field(
        None, description="a string of 1 to 256 characters, or a list of at most 4"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(
        None, description='an object such as {"include_usage": true}, or left out'
    )
    response_format: ResponseFormat | None = Field(
        None,
        description='an object such as {"type": "json_object"}: type is text, json_object, or '
        "json_schema with a json_schema of a name and a schema",
    )
    timing: bool | None = Field(None, description="true or false")
    user: Any = Field(None, description="anything: it is not read")

    @property
    def count(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    def wishes(self, answer: int) -> Parameters:
        """In the terms of `/generate`, for one of the answers to a prompt.

        OpenAI samples unless told otherwise. Of several answers each has a seed of its own.
        """
        seed = None if self.seed is None else (self.seed + answer) % (SEED_MAX + 1)
        return self.model_copy(
            update={
                "max_new_tokens": self.max_completion_tokens or self.max_tokens,
                "temperature": 1.0 if self.temperature is None else self.temperature,
                "seed": seed,
                "top_n_tokens": self.alternatives,
            }
        )

    def contradictions(self) -> Iterator[str]:
        """What is wrong though each field by itself is right."""
        one, other = self.max_tokens, self.max_completion_tokens
        if one and other and one != other:
            yield f"max_tokens is {one}, but max_completion_tokens is {other}: give one of them"
        if self.stream_options is not None and not self.stream:
            yield "stream_options is given, but stream is not true: leave it out"
        form = self.response_format
        if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
            yield (
                f"response_format.type is {form.type}, but json_schema is "
                f"{'given' if form.json_schema else 'missing'}: give both, or neither"
            )
        yield from _too_many(self.answers, bool(self.timing))

    @property
    def json_answer(self) -> JsonAnswer | None:
        """What the answers are held to."""
        form = self.response_format
        if form is None or form.type == "text":
            return None
        if form.json_schema is None:
            return JsonAnswer()
        return JsonAnswer(schema=form.json_schema.schema_, is_strict=bool(form.json_schema.strict))

    @property
    def answers(self) -> int:
        """How many answers the whole request gets."""
        return self.count

    @property
    def alternatives(self) -> int:
        """How many of the likeliest tokens are told beside each chosen one."""
        raise NotImplementedError


class CompletionRequest(OpenAIRequest):
    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "minItems": 1, "maxItems": CHOICES_MAX},
                ]
            }
        ),
    ] = Field(
        description="a string of at least one character, a list of token ids, or a list of 1 to "
        f"{CHOICES_MAX} of either"
    )
    echo: bool | None = Field(None, description="true or false")
    logprobs: int | None = Field(
        None, ge=0, le=5, description="a whole number from 0 (of the chosen tokens only) to 5"
    )

    @property
    def answers(self) -> int:
        return self.count * len(self.prompt)

    @property
    def alternatives(self) -> int:
        return self.logprobs or 0

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.echo and self.logprobs is not None:
            yield (
                "echo is true and logprobs are asked for, but those of a prompt are not computed: "
                "leave one of them out"
            )


class ChatRequest(OpenAIRequest, ToolFields):
    messages: list[Message] = Field(
        min_length=1,
        max_length=MESSAGES_MAX,
        fail_fast=True,
        description=f"a list of 1 to {MESSAGES_MAX} messages such as "
        '{"role": "user", "content": "Hello"}: role is system, developer, user, assistant or tool, '
        "content a string or a list of text parts, arguments of a call an object as JSON",
    )
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="a whole number from 0 to 20, above 0 only beside logprobs"
    )

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.top_logprobs and not self.logprobs:
            yield "top_logprobs is given, but logprobs is not true: leave it out"
        yield from self.tool_contradictions()
        for i, message in enumerate(self.messages):
            yield from message.call_contradictions(f"messages[{i}]", message.role)
        if self.callable and self.response_format and self.response_format.type != "text":
            yield (
                "response_format asks for an answer in JSON, but tools may be called instead: "
                'leave one of them out, or set tool_choice to "none"'
            )

    @property
    def alternatives(self) -> int:
        return self.top_logprobs or 0

    def conversation(self) -> Conversation:
        """The same in no dialect."""
        return Conversation(
            messages=[message.told() for message in self.messages],
            answers=[self.wishes(answer) for answer in range(self.count)],
            stop=self.stop or (),
            tools=self.told_tools(),
            json_answer=self.json_answer,
        )


def _too_many(answers: int, timing: bool) -> Iterator[str]:
    if answers > CHOICES_MAX:
        yield f"prompt and n ask for {answers} answers; at most {CHOICES_MAX} come to one request"
    if answers > 1 and timing:
        yield f"timing is the receipt of one answer, but {answers} are asked for: ask for one"
