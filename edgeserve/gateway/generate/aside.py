"""Work that may take long is done in a thread, so that nobody's tokens wait for it: it gives way
every few milliseconds, unless the interpreter is held by a library. Little work is done at once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

AT_ONCE_MAX = 2**13
"""Bytes, tokens or whatever is walked through, of 1 us each at most."""
LEVELS = 5
"""At which what is written may be long: a document, its choices, one of them, logprobs, a list."""
_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
P = ParamSpec("P")
Result = TypeVar("Result")


async def aside(size: int, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
    """What `work` returns, or the error that it raises. `size` is how much it walks through."""
    if size <= AT_ONCE_MAX:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def written(document: Any, levels: int = LEVELS) -> str:
    """A document as JSON, part by part, since writing it as one would hold the interpreter."""
    if levels and isinstance(document, dict):
        pairs = (f"{_compact(key)}:{written(each, levels - 1)}" for key, each in document.items())
        return f"{{{','.join(pairs)}}}"
    if levels and isinstance(document, list):
        return f"[{','.join(written(each, levels - 1) for each in document)}]"
    return _compact(document)
