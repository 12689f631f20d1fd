"""JSON that a client sent, and what is quoted of it: in bounded words, whatever was sent, and every
text in it can be encoded.

Refuses to know which fields there are, and what they mean.
"""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgeserve.errors import BadRequest, Unprocessable

ECHO_CHARACTERS_MAX = 200
LEVELS_SPARE = 64  # what is made of a document is some levels deeper, and farther down the stack

HALF_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")  # or of a whole pair
_HALF = re.compile("[\ud800-\udfff]")
"""A character that is half of a pair cannot be encoded."""
HALF_SAID = "holds half of a surrogate pair: send whole characters"


def parse_json(body: bytes) -> Any:
    """Whatever it holds, and every text in it can be encoded. NaN and Infinity pass: they are
    refused where they stand, by name.

    Raises BadRequest if it is no JSON, and Unprocessable if a text in it is no text.
    """
    document = _parsed_body(body)
    if HALF_ESCAPED.search(body):
        _refuse_half_characters(document)
    return document


def _parsed_body(body: bytes) -> Any:
    try:
        return parsed(body.decode())
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"the body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}; "
            "send JSON encoded as UTF-8"
        ) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply; a request needs 5 levels") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {cut(str(error))}; send one object") from None


def _refuse_half_characters(document: Any) -> None:
    """Here, for all fields there are and will be: tokenizers and answers take none."""
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unprocessable(f"{_half_place(document)} {HALF_SAID}") from None


def _half_place(document: Any) -> str:
    """Where the first of them is, such as 'messages[0].content'. There may be a million values, so
    that a place is put into words for that one alone.
    """
    pending = [_parts([document])]
    above: list[Any] = []
    while pending:
        for key, value in pending[-1]:
            if isinstance(value, dict) and any(map(_HALF.search, value)):
                return f"a name in {_place([*above, key]) or 'the body'}"
            if isinstance(value, str) and _HALF.search(value):
                return _place([*above, key]) or "the body"
            if isinstance(value, dict | list):
                above.append(key)
                pending.append(_parts(value))
                break
        else:
            pending.pop()
            del above[-1:]
    raise AssertionError("there is none")


def _parts(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    return iter(enumerate(value) if isinstance(value, list) else value.items())


def _place(keys: Sequence[Any]) -> str:
    """The first key is that of the body itself."""
    place = ""
    for key in keys[1:]:
        named = f".{key}" if place else key
        place = cut(f"{place}[{key}]" if isinstance(key, int) else place + named)
    return place


def parsed(text: str) -> Any:
    """What JSON says, if it leaves levels to whoever writes it out again or looks through it.

    Raises ValueError, or RecursionError if it is nested too deeply.
    """
    with _nothing_collected():
        return _parsed(text)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """JSON makes no cycles, but half a million lists, among which the collector would look for some
    again and again: most of a second, in which the interpreter is held.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _parsed(text: str) -> Any:
    document = json.loads(text)
    if text.count("{") + text.count("[") > LEVELS_SPARE:  # or it cannot be deep
        json.loads("[" * LEVELS_SPARE + text + "]" * LEVELS_SPARE)
    return document


def shown(value: Any) -> str:
    """What the client sent, as JSON and in at most `ECHO_CHARACTERS_MAX` characters."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, str):
        value = value[:ECHO_CHARACTERS_MAX]  # before it is written out: it may be megabytes
    return cut(json.dumps(value))


def cut(text: str) -> str:
    return text if len(text) <= ECHO_CHARACTERS_MAX else text[: ECHO_CHARACTERS_MAX - 3] + "..."
