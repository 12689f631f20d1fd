"""How the body of a request with flat fields is taken: parsed, checked, and refused with all that
is wrong with it. Refuses to know which fields there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from edgeserve.errors import Unprocessable
from edgeserve.gateway.api.validation import not_supported, path, sentence, unknown, wrong
from edgeserve.gateway.generate.aside import aside
from edgeserve.gateway.generate.parameters import STRICT
from edgeserve.gateway.text.json_text import cut, parse_json, shown


class Body(BaseModel):
    """Each field has a description, which finishes the sentence '... must be'."""

    model_config = STRICT

    NOT_SERVED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Fields that are refused by name, and for each the values that ask for nothing. Those that a
    class of its own serves after all are not refused.
    """
    ACCEPTED: ClassVar[frozenset[str]] = frozenset()
    """Fields that are not read, and change nothing, whatever they hold."""
    REASONS: ClassVar[Mapping[str, str]] = {}
    """Why some of `NOT_SERVED` are not, and what to do instead."""
    TAGS: ClassVar[frozenset[str]] = frozenset()
    """What pydantic calls the kinds of a part that may be of several: no names in a body."""
    HIDDEN: ClassVar[frozenset[str]] = frozenset()
    """Fields of the class that a body cannot have."""

    @classmethod
    def names(cls) -> list[str]:
        """Of the fields that a body may have."""
        return [name for name in cls.model_fields if name not in cls.HIDDEN]

    @classmethod
    @cache  # some 5 ms each, at every start and in a thousand tests; nobody changes it
    def schema_document(cls) -> dict[str, Any]:
        """For /openapi.json, complete in itself."""
        schema = cls.model_json_schema()
        definitions = schema.pop("$defs", {})
        for name in cls.HIDDEN:
            del schema["properties"][name]
        inlined: dict[str, Any] = _inlined(schema, definitions)
        return inlined

    def contradictions(self) -> Iterator[str]:
        """What is wrong though each field by itself is right."""
        yield from ()


Kind = TypeVar("Kind", bound=Body)


async def read_body(request: Request, kind: type[Kind]) -> Kind:
    """As `parse_body`, without holding up others."""
    body = await request.body()
    return await aside(len(body), parse_body, body, kind)


def parse_body(body: bytes, kind: type[Kind]) -> Kind:
    """Raises BadRequest if the body is not JSON, or else Unprocessable with all that is wrong with
    it.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise Unprocessable(f"the body is {shown(document)}, but must be an object")
    names = kind.names()
    refused = {name: kind.NOT_SERVED[name] for name in kind.NOT_SERVED if name not in names}
    read = [name for name in document if name not in kind.ACCEPTED]
    problems = unknown("", read, [*names, *refused])
    problems += not_supported("", document, refused, kind.REASONS)
    request, more = _validated(kind, {name: document[name] for name in names if name in document})
    problems += more
    if request is None or problems:
        raise Unprocessable(sentence(problems), problems=len(problems))
    return request


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    if isinstance(part, list):
        return [_inlined(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _inlined(definitions[part["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in part.items()}


def _validated(kind: type[Kind], known: dict[str, Any]) -> tuple[Kind | None, list[str]]:
    try:
        request = kind.model_validate(known)
    except ValidationError as error:
        # Bounded: strangers are gone, lists fail at their first element, and biases are few.
        return None, [_problem(kind, each) for each in error.errors(include_url=False)]
    return request, list(request.contradictions())


def _problem(kind: type[Body], error: Any) -> str:
    name, *places = (each for each in error["loc"] if each not in kind.TAGS)
    subject = f"{name} must" if places else "must"
    return wrong(
        error,
        cut(f"{name}{path(tuple(places))}"),
        f"{subject} be {kind.model_fields[name].description}",
    )
