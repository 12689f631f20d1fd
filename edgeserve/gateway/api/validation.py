"""What is said of a body that cannot be taken: what is wrong, how much, what to do.

In bounded words, whatever was sent: a body of 2 MiB must not come back as an error of 20. Refuses
to know which fields there are, and what they mean.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from edgeserve.gateway.text.json_text import HALF_SAID, shown

PROBLEMS_MAX = 10
REFUSED = "refused"
"""The type of an error of ours among pydantic's: its message says what is wrong, and what to do."""


def unknown(path: str, found: Iterable[str], names: Sequence[str]) -> list[str]:
    strangers = [key for key in found if key not in names]
    problems = [_stranger(path, key, names) for key in strangers[:PROBLEMS_MAX]]
    return problems + strangers[PROBLEMS_MAX:]  # those are only counted: hints take time


def not_supported(
    path: str,
    wishes: Mapping[str, Any],
    neutral: Mapping[str, tuple[Any, ...]],
    reasons: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """`neutral` has the names that are not served, and for each the values that ask for nothing;
    `reasons` why some of them are not.
    """
    reasons = reasons or {}
    for name, values in neutral.items():
        value = wishes.get(name)
        if not any(type(value) is type(each) and value == each for each in values):
            cures = " or ".join(["leave it out", *(f"give {json.dumps(n)}" for n in values[1:])])
            why = f", since {reasons[name]}" if name in reasons else ""
            yield f"{path}{name} is {shown(value)}, which is not supported here{why}: {cures}"


def wrong(error: Any, where: str, must: str) -> str:
    """One of pydantic's errors as what is wrong, how much, and what to do."""
    if error["type"] == "missing":
        return f"{where} is missing, but {must}"
    if error["type"] == REFUSED:
        return f"{where} {error['msg']}"
    if error["type"] == "string_unicode":
        return f"{where} {HALF_SAID}"
    return f"{where} is {shown(error['input'])}, but {must}"


def sentence(problems: Sequence[str]) -> str:
    told = problems[:PROBLEMS_MAX]
    more = len(problems) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def path(places: tuple[int | str, ...]) -> str:
    """Where in a field it is, such as '.5' or '[2]'."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in places)


def _stranger(path: str, key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key[:64], names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return f"{path}{shown(key)} is not known ({hint})"
