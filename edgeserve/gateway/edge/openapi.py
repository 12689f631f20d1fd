"""What each route may answer, for /openapi.json: every status, and the shape of its body.

A client generated from the document, or one that checks answers against it, meets nothing that is
not written here. Refuses to know how an answer comes about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from itertools import groupby
from typing import Any

from edgeserve.errors import (
    BadRequest,
    EdgeserveError,
    HeadersTooLarge,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    StageUnavailable,
    TooSlow,
    Unauthorized,
    Unprocessable,
    UnsupportedEncoding,
    WireError,
)
from edgeserve.gateway.edge.anthropic_error import ANTHROPIC_PATHS, anthropic_error
from edgeserve.gateway.edge.openai_error import OPENAI_PATHS, openai_error

Schema = Mapping[str, Any]
ErrorKind = type[EdgeserveError]

OF_ANY_CONNECTION: tuple[ErrorKind, ...] = (
    BadRequest, TooSlow, PayloadTooLarge, Overloaded, HeadersTooLarge,
)  # fmt: skip
"""Answered by `connection.py`, before there is a route: in our own shape."""
OF_ANY_ROUTE: tuple[ErrorKind, ...] = (
    *OF_ANY_CONNECTION, UnsupportedEncoding, Unauthorized, EdgeserveError,
)  # fmt: skip
"""And by the middleware, before a route is asked or after it broke."""
OF_REQUESTS: tuple[ErrorKind, ...] = (Unprocessable, RateLimited, StageUnavailable, WireError)
"""Of every route that generates."""

JSON, EVENTS = "application/json", "text/event-stream"
TEXT, HTML = "text/plain", "text/html"
ANYTHING: Schema = {}
ANY_OBJECT: Schema = {"type": "object"}


def object_with(**required: Schema) -> Schema:
    """At least these properties."""
    return {"type": "object", "required": list(required), "properties": required}


STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
LIST: Schema = {"type": "array"}
WHOLE: Schema = {"type": "integer"}
TIMES = object_with(
    total_ms=NUMBER, compute_ms=NUMBER, transfer_ms=NUMBER, waiting_ms=NUMBER, other_ms=NUMBER
)
RECEIPT = object_with(
    total_ms=NUMBER,
    queue_ms=NUMBER,
    prefill=TIMES,
    decode=TIMES,
    stages={
        "type": "array",
        "items": object_with(
            stage=WHOLE,
            worker=STRING,
            layers={"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 2},
            compute_ms=NUMBER,
            transfer_ms=NUMBER,
            waiting_ms=NUMBER,
        ),
    },
    per_token={"type": "array", "items": TIMES},
    verdict=STRING,
)
"""docs/timing.md says what each of them means."""


def takes(body: Schema) -> dict[str, Any]:
    """What a route's operation says besides: it wants a body in JSON, of this shape."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": dict(body)}}}}


def documented(
    path: str, errors: Iterable[ErrorKind], success: Mapping[str, Schema]
) -> dict[int | str, dict[str, Any]]:
    """The answers of the route at `path`: `success` by media type, and the errors that it and the
    middleware around it may raise.
    """
    by_status = sorted({*OF_ANY_ROUTE, *errors}, key=lambda kind: kind.http_status)
    found: dict[int | str, dict[str, Any]] = {200: _answer("done", success)}
    for status, kinds in groupby(by_status, key=lambda kind: kind.http_status):
        names = tuple(sorted(kind.error_type for kind in kinds))
        found[status] = _answer(", ".join(names), {JSON: _shape(path, names)})
    wait = {"description": "seconds until it is worth another try", "schema": WHOLE}
    found[Overloaded.http_status]["headers"] = {"Retry-After": wait}
    return found


def _answer(description: str, content: Mapping[str, Schema]) -> dict[str, Any]:
    media = {media_type: {"schema": dict(schema)} for media_type, schema in content.items()}
    return {"description": description, "content": media}


@cache
def _shape(path: str, error_types: tuple[str, ...]) -> Schema:
    """Of an error with one of these types. Before there is a route, it is ours."""
    if path in ANTHROPIC_PATHS:
        theirs = _anthropic_shape(error_types)
    elif path in OPENAI_PATHS:
        theirs = _openai_shape(error_types)
    else:
        return _own_shape(error_types)
    early = tuple(sorted({kind.error_type for kind in OF_ANY_CONNECTION} & {*error_types}))
    return {"anyOf": [theirs, _own_shape(early)]} if early else theirs


def _own_shape(error_types: tuple[str, ...]) -> Schema:
    return object_with(error=STRING, error_type={"enum": list(error_types)})


def _openai_shape(error_types: tuple[str, ...]) -> Schema:
    """Their `code` is our `error_type`, unless it says more."""
    (inner,) = openai_error(EdgeserveError("")).values()
    text_or_null: Schema = {"type": ["string", "null"]}
    fields = dict.fromkeys(inner, text_or_null) | {
        "message": STRING,
        "code": {"type": "string", "examples": list(error_types)},
    }
    return object_with(error=object_with(**fields))


def _anthropic_shape(error_types: tuple[str, ...]) -> Schema:
    """Their `error_code` is our `error_type`."""
    code: Schema = {"type": "string", "examples": list(error_types)}
    inner = object_with(type=STRING, message=STRING, details=object_with(error_code=code))
    fields = dict.fromkeys(anthropic_error(EdgeserveError(""), ""), STRING) | {"error": inner}
    return object_with(**fields)
