"""The body of /generate and /generate_stream: what may be asked, and what is said of anything else.

TGI's names. What is not supported is refused by name rather than ignored, since a client that asks
for it would get an answer that means something else. Everything is refused at once and in bounded
words: a body of 2 MiB must not come back as an error of 20.

What this module refuses to know: the model. Whether the numbers fit it is the business of
`intake.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgeserve.errors import Unprocessable
from edgeserve.families.sampling import BIASES_MAX, PENALTY_MAX, SEED_MAX, TOP_LOGPROBS_MAX
from edgeserve.gateway.refusal import (
    cut,
    not_supported,
    parse_json,
    sentence,
    shown,
    unknown,
    wrong,
)

COUNT_MAX = 2**31 - 1
NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "typical_p": (None,),
    "watermark": (None, False),
    "adapter_id": (None,),
    "decoder_input_details": (None, False),
}
"""TGI's parameters that are not served here, and the values that ask for nothing."""

STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
StopString = Annotated[str, Field(min_length=1, max_length=256)]
_TokenId = Annotated[int, Field(ge=0, le=COUNT_MAX)]
_TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]


def _few(biases: Any) -> Any:
    """Before each is looked at: 2 MiB of them would be 2 MiB of problems."""
    if isinstance(biases, dict) and len(biases) > BIASES_MAX:
        raise ValueError
    return biases


def _grammar(grammar: Any) -> Any:
    match grammar:
        case None:
            return None
        case {"type": "json", "value": dict(), **others} if not others:
            return grammar
        case {"type": "regex", "value": str(), **others} if not others:
            return grammar
    raise ValueError


class Parameters(BaseModel):
    """How to answer. Each description finishes the sentence '... must be'.

    Tokens are sampled if `do_sample` is true or a `temperature` above 0 is given. Otherwise the
    most likely one is taken, which `top_k`, `top_p` and `min_p` would keep anyway: then they change
    nothing.
    """

    model_config = STRICT

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=COUNT_MAX,
        description="a whole number from 1, at most what the context leaves",
    )
    temperature: float | None = Field(
        None, ge=0, le=100, description="a number from 0 (greedy) to 100"
    )
    top_k: int | None = Field(
        None, ge=0, le=COUNT_MAX, description="a whole number from 0 (keeps all) to the vocabulary"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="a number above 0, at most 1 (keeps all)"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 (keeps all) to 1")
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="a number above 0, at most 10; 1 changes nothing"
    )
    frequency_penalty: float | None = Field(
        None, ge=-PENALTY_MAX, le=PENALTY_MAX,
        description="a number from -2 to 2; 0 changes nothing",
    )  # fmt: skip
    presence_penalty: float | None = Field(
        None, ge=-PENALTY_MAX, le=PENALTY_MAX,
        description="a number from -2 to 2; 0 changes nothing",
    )  # fmt: skip
    logit_bias: Annotated[dict[_TokenKey, _Bias] | None, BeforeValidator(_few)] = Field(
        None,
        description=f"an object of at most {BIASES_MAX} token ids, each with a number from -100 to "
        "100",
    )
    seed: int | None = Field(
        None, ge=0, le=SEED_MAX, description="a whole number from 0 to 2^64 - 1"
    )
    do_sample: bool | None = Field(None, description="true or false")
    stop: list[StopString] | None = Field(
        None,
        max_length=4,
        fail_fast=True,
        description="a list of at most 4 strings of 1 to 256 characters",
    )
    stop_token_ids: list[_TokenId] | None = Field(
        None,
        max_length=16,
        fail_fast=True,
        description="a list of at most 16 token ids, whole numbers from 0",
    )
    ignore_eos: bool | None = Field(None, description="true or false")
    truncate: int | None = Field(
        None, ge=1, le=COUNT_MAX,
        description="a whole number from 1: how many of the prompt's last tokens to keep",
    )  # fmt: skip
    speculate: bool | None = Field(
        None, description="true or false; false measures the pace without drafted tokens"
    )
    return_full_text: bool | None = Field(None, description="true or false")
    details: bool | None = Field(None, description="true or false")
    top_n_tokens: int | None = Field(
        None, ge=0, le=TOP_LOGPROBS_MAX,
        description="a whole number from 0 to 20: how many of the likeliest tokens to tell",
    )  # fmt: skip
    grammar: Annotated[dict[str, Any] | None, BeforeValidator(_grammar)] = Field(
        None,
        description='an object such as {"type": "json", "value": {"type": "object"}}, whose value '
        'is a JSON schema, or {"type": "regex", "value": "[0-9]+"}',
    )


class GenerateRequest(BaseModel):
    """`stream` is what clients of TGI's `POST /` send along; elsewhere it may only say what the
    route does anyway.
    """

    model_config = STRICT

    inputs: str = Field(min_length=1, description="a string of at least one character")
    parameters: Parameters | None = Field(
        None, description='an object such as {"max_new_tokens": 100}, or left out'
    )
    stream: bool | None = Field(None, description="true or false")

    @property
    def wishes(self) -> Parameters:
        return self.parameters or Parameters.model_validate({})


def wants_stream(body: bytes) -> bool:
    """For `POST /`. Raises BadRequest if the body is not JSON; parsing finds all else."""
    document = parse_json(body)
    return isinstance(document, dict) and document.get("stream") is True


def parse_request(body: bytes, *, streams: bool) -> GenerateRequest:
    """`streams` is whether the route does.

    Raises BadRequest if the body is not JSON, or else Unprocessable with all that is wrong with it.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise Unprocessable(
            f"the body is {shown(document)}, but must be an object with `inputs`, a string"
        )
    known, problems = _without_strangers(document)
    request, more = _validated(known)
    problems += more
    if request is None or problems:
        raise Unprocessable(sentence(problems), problems=len(problems))
    if request.stream is not None and request.stream != streams:
        there = "/generate_stream" if request.stream else "/generate"
        raise Unprocessable(
            f"stream is {json.dumps(request.stream)}, but this route does the opposite; "
            f"post to {there}"
        )
    return request


def _without_strangers(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys that the models know, and what is to be said of the others."""
    problems = unknown("", document, list(GenerateRequest.model_fields))
    known = {key: document[key] for key in GenerateRequest.model_fields if key in document}
    wishes = known.get("parameters")
    if not isinstance(wishes, dict):
        return known, problems
    problems += not_supported("parameters.", wishes, NOT_SUPPORTED)
    names = [*Parameters.model_fields, *NOT_SUPPORTED]
    problems += unknown("parameters.", wishes, names)
    known["parameters"] = {key: wishes[key] for key in Parameters.model_fields if key in wishes}
    return known, problems


def _validated(known: dict[str, Any]) -> tuple[GenerateRequest | None, list[str]]:
    try:
        return GenerateRequest.model_validate(known), []
    except ValidationError as error:
        # Bounded by the number of fields: strangers are gone and lists fail at their first element.
        return None, [_problem(each) for each in error.errors(include_url=False)]


def _problem(error: Any) -> str:
    loc = error["loc"]
    count = 2 if loc[0] == "parameters" else 1
    names, places = loc[:count], path(loc[count:])
    model: type[BaseModel] = GenerateRequest if len(names) == 1 else Parameters
    subject = f"{names[-1]} must" if places else "must"
    allowed = model.model_fields[names[-1]].description
    return wrong(error, cut(".".join(names) + places), f"{subject} be {allowed}")


def path(places: tuple[int | str, ...]) -> str:
    """Where in a field it is, such as '.5' or '[2]'."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in places)
