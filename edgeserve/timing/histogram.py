"""How often values fell between bounds: cheap to add to, and never larger.

One thread adds and reads; any other gets a copy from it. Knows neither what the values are nor in
what format they are told.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        """Ascending. A value on a bound counts as at most it."""
        self.sum = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def __copy__(self) -> Histogram:
        other = Histogram.__new__(Histogram)
        other.bounds, other.sum, other._counts = self.bounds, self.sum, self._counts.copy()
        return other

    def at_most(self) -> list[int]:
        """How many values were at most each bound, and last how many there were."""
        return list(accumulate(self._counts))
