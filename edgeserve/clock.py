"""The only module that asks the time.

Everything else is given a `Clock`, so that a test or a simulation can be at any moment it likes.
Seconds are floats from an arbitrary origin: they measure distances and are never sent to another
machine.
"""

from __future__ import annotations

import time
from typing import Protocol

WAKE_S = 2e-4
"""By so much the system wakes a thread too late after 28 ms of sleep, on the machine of the
measurements (docs/LOG.md): slept less, and the rest waited out. No core is kept busy for longer."""


class Clock(Protocol):
    def now_s(self) -> float:
        """Seconds since an origin that stays the same for the life of the clock."""
        ...

    def sleep_until(self, instant_s: float) -> None:
        """Holds this thread up until then; returns at once if that is past."""
        ...


class MonotonicClock:
    """The machine's clock that never goes backwards."""

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep_until(self, instant_s: float) -> None:
        time.sleep(max(0.0, instant_s - WAKE_S - self.now_s()))
        while self.now_s() < instant_s:
            time.sleep(0)  # lets other threads have the interpreter


class Timekeeper(Protocol):
    """What of a clock is enough to see how long something took."""

    def now_s(self) -> float: ...


class ProcessorTime:
    """How long this process has computed, its threads added up. On a busy machine it tells what
    something costs, where a clock would tell how long the others had their turns.
    """

    def now_s(self) -> float:
        return time.process_time()


class ManualClock:
    """A clock that stands still until told to move."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        return self._now_s

    def sleep_until(self, instant_s: float) -> None:
        self._now_s = max(self._now_s, instant_s)

    def advance(self, by_s: float) -> None:
        if by_s < 0:
            raise ValueError(f"time cannot go backwards (asked for {by_s} s)")
        self._now_s += by_s


def unix_ns() -> int:
    """Nanoseconds since 1970. Orders the starts of gateways and dates answers; no duration comes of
    it.
    """
    return time.time_ns()


def written_now(form: str) -> str:
    """Date and time of this place, in a form such as `%d %B %Y`."""
    return time.strftime(form)
