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
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from edgeserve.errors import Unprocessable
from edgeserve.gateway.api.validation import not_supported, path, sentence, unknown, wrong
from edgeserve.gateway.generate.parameters import STRICT, Parameters
from edgeserve.gateway.text.json_text import cut, parse_json, shown

NOT_SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "typical_p": (None,),
    "watermark": (None, False),
    "adapter_id": (None,),
}
"""TGI's parameters that are not served here, and the values that ask for nothing."""


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
    if streams and request.wishes.decoder_input_details:
        raise Unprocessable(
            "parameters.decoder_input_details is true, but the prompt's tokens come with a whole "
            "answer only; post to /generate, or leave it out"
        )
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
