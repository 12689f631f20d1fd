"""'1-8', '1,4,16' or both mixed, as numbers."""

from __future__ import annotations

import re

from edgeserve.errors import BadRequest

NUMBERS_MAX = 1000
"""A longer list is a slip of the hand: a probe of so many batches takes days."""


def parse_range(flag: str, text: str) -> tuple[int, ...]:
    """Whole numbers from 1, in order and each once. Raises BadRequest, which names `flag`."""
    found: set[int] = set()
    for part in text.split(","):
        start, end = _ends(flag, text, part.strip())
        if end - start >= NUMBERS_MAX:
            raise BadRequest(f"{flag} {text!r}: {part!r} is more than {NUMBERS_MAX} numbers")
        found.update(range(start, end + 1))
    return tuple(sorted(found))


def _ends(flag: str, text: str, part: str) -> tuple[int, int]:
    """Both are included, as people write ranges."""
    match = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part, re.ASCII)
    if match is None:
        raise BadRequest(f"{flag} {text!r}: {part!r} is neither N nor N-M")
    start, end = int(match[1]), int(match[2] or match[1])
    if start < 1:
        raise BadRequest(f"{flag} {text!r}: {part!r} begins below 1")
    if end < start:
        raise BadRequest(f"{flag} {text!r}: {part!r} runs backwards; write {end}-{start}")
    return start, end
