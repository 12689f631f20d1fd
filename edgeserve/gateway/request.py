"""The body of /generate and /generate_stream: what may be asked, and what is said of anything else.

TGI's names. What is not supported is refused by name rather than ignored, since a client that asks
for it would get an answer that means something else. Everything is refused at once and in bounded
words: a body of 2 MiB must not come back as an error of 20.

What this module refuses to know: the model. Whether the numbers fit it is the business of
`intake.py`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeserve.errors import BadRequest, Unprocessable
from edgeserve.families.sampling import PENALTY_MAX, SEED_MAX, TOP_LOGPROBS_MAX

COUNT_MAX = 2**31 - 1
PROBLEMS_MAX = 10
ECHO_CHARACTERS_MAX = 200
NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "typical_p": (None,),
    "watermark": (None, False),
    "grammar": (None,),
    "adapter_id": (None,),
    "decoder_input_details": (None, False),
}
"""TGI's parameters that are not served here, and the values that ask for nothing."""

_STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
_StopString = Annotated[str, Field(min_length=1, max_length=256)]
_TokenId = Annotated[int, Field(ge=0, le=COUNT_MAX)]


class Parameters(BaseModel):
    """How to answer. Each description finishes the sentence '... must be'.

    Tokens are sampled if `do_sample` is true or a `temperature` above 0 is given. Otherwise the
    most likely one is taken, which `top_k`, `top_p` and `min_p` would keep anyway: then they change
    nothing.
    """

    model_config = _STRICT

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
    seed: int | None = Field(
        None, ge=0, le=SEED_MAX, description="a whole number from 0 to 2^64 - 1"
    )
    do_sample: bool | None = Field(None, description="true or false")
    stop: list[_StopString] | None = Field(
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


class GenerateRequest(BaseModel):
    """`stream` is what clients of TGI's `POST /` send along; it may only say what the route does
    anyway.
    """

    model_config = _STRICT

    inputs: str = Field(min_length=1, description="a string of at least one character")
    parameters: Parameters | None = Field(
        None, description='an object such as {"max_new_tokens": 100}, or left out'
    )
    stream: bool | None = Field(None, description="true or false")

    @property
    def wishes(self) -> Parameters:
        return self.parameters or Parameters.model_validate({})


def parse_request(body: bytes, *, streams: bool) -> GenerateRequest:
    """`streams` is whether the route does.

    Raises BadRequest if the body is not JSON, or else Unprocessable with all that is wrong with it.
    """
    document = _parse_json(body)
    if not isinstance(document, dict):
        raise Unprocessable(
            f"the body is {_shown(document)}, but must be an object with `inputs`, a string"
        )
    known, problems = _without_strangers(document)
    request, more = _validated(known)
    problems += more
    if request is None or problems:
        raise Unprocessable(_sentence(problems), problems=len(problems))
    if request.stream is not None and request.stream != streams:
        there = "/generate_stream" if request.stream else "/generate"
        raise Unprocessable(
            f"stream is {json.dumps(request.stream)}, but this route does the opposite; "
            f"post to {there}"
        )
    return request


def _parse_json(body: bytes) -> Any:
    """Whatever it holds. NaN and Infinity pass: they are refused where they stand, by name."""
    try:
        return json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}; "
            "send JSON encoded as UTF-8"
        ) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply; a request needs 3 levels") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {_cut(str(error))}; send one object") from None


def _without_strangers(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The keys that the models know, and what is to be said of the others."""
    problems = _unknown("", document, list(GenerateRequest.model_fields))
    known = {key: document[key] for key in GenerateRequest.model_fields if key in document}
    wishes = known.get("parameters")
    if not isinstance(wishes, dict):
        return known, problems
    problems += _not_supported(wishes)
    names = [*Parameters.model_fields, *NOT_SUPPORTED]
    problems += _unknown("parameters.", wishes, names)
    known["parameters"] = {key: wishes[key] for key in Parameters.model_fields if key in wishes}
    return known, problems


def _unknown(path: str, found: Iterable[str], names: Sequence[str]) -> list[str]:
    strangers = [key for key in found if key not in names]
    problems = [_stranger(path, key, names) for key in strangers[:PROBLEMS_MAX]]
    return problems + strangers[PROBLEMS_MAX:]  # those are only counted: hints take time


def _stranger(path: str, key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key[:64], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return f"{path}{_shown(key)} is not known ({hint})"


def _not_supported(wishes: Mapping[str, Any]) -> Iterator[str]:
    for name, neutral in NOT_SUPPORTED.items():
        value = wishes.get(name)
        if not any(type(value) is type(each) and value == each for each in neutral):
            cures = " or ".join(["leave it out", *(f"give {json.dumps(n)}" for n in neutral[1:])])
            yield f"parameters.{name} is {_shown(value)}, which is not supported here: {cures}"


def _validated(known: dict[str, Any]) -> tuple[GenerateRequest | None, list[str]]:
    try:
        return GenerateRequest.model_validate(known), []
    except ValidationError as error:
        # Bounded by the number of fields: strangers are gone and lists fail at their first element.
        return None, [_problem(each) for each in error.errors(include_url=False)]


def _problem(error: Any) -> str:
    """One of pydantic's errors as what is wrong, how much, and what to do."""
    names, places = _path(error["loc"])
    model: type[BaseModel] = GenerateRequest if len(names) == 1 else Parameters
    allowed = model.model_fields[names[-1]].description
    where = ".".join(names) + places
    if error["type"] == "missing":
        return f"{where} is missing, but must be {allowed}"
    if error["type"] == "string_unicode":
        return f"{where} holds half of a surrogate pair: send whole characters"
    subject = f"{names[-1]} must" if places else "must"
    return f"{where} is {_shown(error['input'])}, but {subject} be {allowed}"


def _path(loc: tuple[int | str, ...]) -> tuple[list[str], str]:
    """The names of fields, and the place in a list such as '[2]'."""
    names = [part for part in loc if isinstance(part, str)]
    return names, "".join(f"[{part}]" for part in loc if isinstance(part, int))


def _sentence(problems: list[str]) -> str:
    shown = problems[:PROBLEMS_MAX]
    more = len(problems) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _shown(value: Any) -> str:
    """What the client sent, as JSON and in at most `ECHO_CHARACTERS_MAX` characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, str):
        value = value[:ECHO_CHARACTERS_MAX]  # before it is written out: it may be megabytes
    return _cut(json.dumps(value))


def _cut(text: str) -> str:
    return text if len(text) <= ECHO_CHARACTERS_MAX else text[: ECHO_CHARACTERS_MAX - 3] + "..."
