"""How many tokens came out in each of the last seconds, for a line of the last minutes.

A ring of seconds, so it never grows. One thread counts and reads; any other gets a copy from it.
Refuses to know of requests and of stages.
"""

from __future__ import annotations

SECONDS_KEPT = 120
"""Two minutes: long enough to see a load come and go, and 0.5 KB of JSON a second for who looks."""


class TokenRate:
    """`made` whenever tokens come out; `recent` is drawn."""

    def __init__(self) -> None:
        # One slot more than is told: the second that is not over yet.
        self._slots = [(-1, 0)] * (SECONDS_KEPT + 1)
        """Which second it counts, and the tokens of it."""

    def made(self, tokens: int, at_s: float) -> None:
        second = int(at_s)
        self._slots[second % len(self._slots)] = (second, self._in(second) + tokens)

    def __copy__(self) -> TokenRate:
        other = TokenRate()
        other._slots = self._slots.copy()
        return other

    def recent(self, now_s: float) -> list[int]:
        """Tokens in each whole second that is over, the oldest first."""
        now = int(now_s)
        return [self._in(second) for second in range(now - SECONDS_KEPT, now)]

    def _in(self, second: int) -> int:
        counted, tokens = self._slots[second % len(self._slots)]
        return tokens if counted == second else 0
