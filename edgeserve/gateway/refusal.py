"""What is said of a body that cannot be taken: what is wrong, how much, what to do.

In bounded words, whatever was sent: a body of 2 MiB must not come back as an error of 20. Refuses
to know which fields there are, and what they mean.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgeserve.errors import BadRequest

PROBLEMS_MAX = 10
ECHO_CHARACTERS_MAX = 200
LEVELS_SPARE = 64  # what is made of a document is some levels deeper, and farther down the stack


def parse_json(body: bytes) -> Any:
    """Whatever it holds. NaN and Infinity pass: they are refused where they stand, by name."""
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


def parsed(text: str) -> Any:
    """What JSON says, if it leaves levels to whoever writes it out again or looks through it.

    Raises ValueError, or RecursionError if it is nested too deeply.
    """
    document = json.loads(text)
    if text.count("{") + text.count("[") > LEVELS_SPARE:  # or it cannot be deep
        json.loads("[" * LEVELS_SPARE + text + "]" * LEVELS_SPARE)
    return document


def unknown(path: str, found: Iterable[str], names: Sequence[str]) -> list[str]:
    strangers = [key for key in found if key not in names]
    problems = [_stranger(path, key, names) for key in strangers[:PROBLEMS_MAX]]
    return problems + strangers[PROBLEMS_MAX:]  # those are only counted: hints take time


def not_supported(
    path: str, wishes: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]
) -> Iterator[str]:
    """`neutral` has the names that are not served, and for each the values that ask for nothing."""
    for name, values in neutral.items():
        value = wishes.get(name)
        if not any(type(value) is type(each) and value == each for each in values):
            cures = " or ".join(["leave it out", *(f"give {json.dumps(n)}" for n in values[1:])])
            yield f"{path}{name} is {shown(value)}, which is not supported here: {cures}"


def wrong(error: Any, where: str, must: str) -> str:
    """One of pydantic's errors as what is wrong, how much, and what to do."""
    if error["type"] == "missing":
        return f"{where} is missing, but {must}"
    if error["type"] == "string_unicode":
        return f"{where} holds half of a surrogate pair: send whole characters"
    return f"{where} is {shown(error['input'])}, but {must}"


def sentence(problems: Sequence[str]) -> str:
    told = problems[:PROBLEMS_MAX]
    more = len(problems) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


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


def _stranger(path: str, key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key[:64], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return f"{path}{shown(key)} is not known ({hint})"
