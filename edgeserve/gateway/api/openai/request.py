"""The bodies of OpenAI's routes: what may be asked, and what is said of anything else.

OpenAI's names, flat; what they share with `/generate` means the same and has the same bounds. As
there, what is not served is refused by name, and what nobody knows is an error with a suggestion.
What changes no text is accepted and not read: `unread_fields.py` lists both.

What this module refuses to know: the model, its tokens and its chat template.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from edgeserve.frames.sampling import SEED_MAX, TOP_LOGPROBS_MAX
from edgeserve.gateway.api.body import Body
from edgeserve.gateway.api.chat_prompt import ChatPromptFields
from edgeserve.gateway.api.openai.grammar import GrammarFields
from edgeserve.gateway.api.openai.unread_fields import ACCEPTED, NOT_SERVED
from edgeserve.gateway.generate.conversation import Conversation, JsonAnswer
from edgeserve.gateway.generate.parameters import (
    COUNT_MAX,
    STOPS_MAX,
    STRICT,
    Parameters,
    StopString,
)
from edgeserve.pipeline.generation import Scoring

CHOICES_MAX = 16  # OpenAI has 128; here each holds pages for its worst case
PROMPTS_MAX = 128
"""As many as may wait for their turn unless the operator says otherwise; lm-eval sends batches."""
NATIVE_ONLY = frozenset({
    "max_new_tokens", "do_sample", "truncate", "return_full_text", "details", "top_n_tokens",
    "grammar", "decoder_input_details",
})  # fmt: skip
"""Names of `/generate` that OpenAI has other words for, or none."""

_COUNT = "a whole number from 1, at most what the context leaves"
_COUNT_OR_NONE = "a whole number from 0 (of the prompt only), at most what the context leaves"
Stops = Annotated[list[StopString], Field(max_length=STOPS_MAX, fail_fast=True)]


def listed(stop: Any) -> Any:
    """One string as a list; an empty one asks for nothing."""
    if isinstance(stop, str):
        return [stop] if stop else None
    return stop


def _prompts(value: Any) -> Any:
    """One prompt or several, each a text or its tokens, as a list of several."""
    prompts = [value] if isinstance(value, str) or _is_tokens(value) else value
    if not isinstance(prompts, list) or not 1 <= len(prompts) <= PROMPTS_MAX:
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


class StreamOptions(BaseModel):
    model_config = STRICT

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """vLLM's: each chunk has the usage so far, too. Nothing without `include_usage`."""
    include_obfuscation: bool | None = None
    """OpenAI's, of padding that hides how long tokens are: there is none here."""


class OpenAIRequest(Parameters, GrammarFields, Body):
    """What both routes take. Each description finishes the sentence '... must be'."""

    ACCEPTED = ACCEPTED
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
    stop: Annotated[Stops | None, BeforeValidator(listed)] = Field(
        None, description=f"a string of at most 256 characters, or a list of at most {STOPS_MAX}"
    )
    stream: bool | None = Field(None, description="true or false")
    stream_options: StreamOptions | None = Field(
        None, description='an object such as {"include_usage": true}, or left out'
    )
    add_special_tokens: bool | None = Field(None, description="true or false")
    truncate_prompt_tokens: int | None = Field(
        None, ge=1, le=COUNT_MAX,
        description="a whole number from 1: how many of the prompt's last tokens to keep",
    )  # fmt: skip
    cache_salt: str | None = Field(
        None, min_length=1, max_length=256, description="a string of 1 to 256 characters"
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=TOP_LOGPROBS_MAX,
        description="a whole number from 0 (of the prompt's own tokens only) to 20",
    )  # fmt: skip
    timing: bool | None = Field(None, description="true or false")

    @property
    def count(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    def wishes(self, answer: int) -> Parameters:
        """In the terms of `/generate`, for one of the answers to a prompt.

        OpenAI samples unless told otherwise. Of several answers each has a seed of its own.
        """
        seed = None if self.seed in (None, -1) else (self.seed + answer) % (SEED_MAX + 1)
        return self.model_copy(
            update={
                "max_new_tokens": self.max_tokens
                if self.max_completion_tokens is None
                else self.max_completion_tokens,
                "temperature": 1.0 if self.temperature is None else self.temperature,
                "seed": seed,
                "top_n_tokens": self.alternatives,
                "truncate": self.truncate_prompt_tokens,
            }
        )

    def contradictions(self) -> Iterator[str]:
        """What is wrong though each field by itself is right."""
        one, other = self.max_tokens, self.max_completion_tokens
        if None not in (one, other) and one != other:
            yield f"max_tokens is {one}, but max_completion_tokens is {other}: give one of them"
        if self.stream_options is not None and not self.stream:
            yield "stream_options is given, but stream is not true: leave it out"
        if self.prompt_logprobs is not None and self.stream:
            yield "prompt_logprobs come with a whole answer only: leave it out, or stream"
        yield from self.grammar_contradictions()
        if self.answers > 1 and self.timing:
            yield (
                f"timing is the receipt of one answer, but {self.answers} are asked for: "
                "ask for one"
            )

    @property
    def scoring(self) -> Scoring | None:
        """How likely the tokens of a prompt are, if that is told."""
        if self.prompt_logprobs is None:
            return None
        return Scoring(top_logprobs=self.prompt_logprobs)

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
                    {"type": "array", "minItems": 1, "maxItems": PROMPTS_MAX},
                ]
            }
        ),
    ] = Field(
        description="a string of at least one character, a list of token ids, or a list of 1 to "
        f"{PROMPTS_MAX} of either"
    )
    max_tokens: int | None = Field(None, ge=0, le=COUNT_MAX, description=_COUNT_OR_NONE)
    max_completion_tokens: int | None = Field(None, ge=0, le=COUNT_MAX, description=_COUNT_OR_NONE)
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

    @property
    def scoring(self) -> Scoring | None:
        """For `prompt_logprobs`, or for an echo with logprobs."""
        scoring = super().scoring
        if not self.echo or self.logprobs is None:
            return scoring
        return Scoring(top_logprobs=max(self.logprobs, scoring.top_logprobs if scoring else 0))

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.answers > PROMPTS_MAX:
            yield (
                f"prompt and n ask for {self.answers} answers; at most {PROMPTS_MAX} come to one "
                "request"
            )


class ChatRequest(OpenAIRequest, ChatPromptFields):
    logprobs: bool | None = Field(None, description="true or false")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="a whole number from 0 to 20, above 0 only beside logprobs"
    )

    def contradictions(self) -> Iterator[str]:
        yield from super().contradictions()
        if self.top_logprobs and not self.logprobs:
            yield "top_logprobs is given, but logprobs is not true: leave it out"
        yield from self.prompt_contradictions()
        if self.callable and not isinstance(self.held_to, JsonAnswer | None):
            yield (
                "the answer is to match an expression or a choice, but tools may be called "
                'instead: leave one of them out, or set tool_choice to "none"'
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
            held_to=self.held_to,
            template_arguments=self.template_arguments,
            asks_for_answer=self.add_generation_prompt is not False,
            frames_prompt=bool(self.add_special_tokens),
            cache_salt=self.cache_salt or "",
            scoring=self.scoring,
        )
