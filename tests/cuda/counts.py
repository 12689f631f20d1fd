"""How many kernels a GPU starts in a piece of the events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tests.cuda.events import Event, Launch, Operator

STARTS_NOTHING = frozenset(("empty.memory_format", "empty_like", "new_empty"))
"""Operators that take memory; views start nothing either."""


def kernels(events: Iterable[Event]) -> Counter[str]:
    """By the name of Triton's kernel or of PyTorch's operator, which starts one at least."""
    calls = [each for each in events if isinstance(each, Operator | Launch)]
    return Counter(each.name for each in calls if _starts_a_kernel(each))


def _starts_a_kernel(call: Operator | Launch) -> bool:
    if isinstance(call, Launch):
        return True
    return not call.is_view and call.name not in STARTS_NOTHING
