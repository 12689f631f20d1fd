"""How long a frame of so many tokens takes, learned from the frames that came back.

Only quiet frames teach: decodes that no prompt rode with or beside. Between two measured sizes the
time is interpolated, beyond them it is that of the nearest: while the weights are what is read,
time hardly depends on tokens, and a guess that is too low is corrected by the next frame.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

SHARE_OF_NEWEST = 0.2
"""Of a moving average: half of it is the last three frames."""
WORTH = 0.5
"""A drafted token may cost half of what a decode costs: drafts are as long as they were good, so at
least every second is right."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Of one frame's way through all stages."""

    compute_s: float
    """All stages together."""
    slowest_s: float
    """The stage that takes longest."""
    hops_s: float
    """Everything else on the way, without waiting behind other frames."""

    @property
    def total_s(self) -> float:
        return self.compute_s + self.hops_s


class StepTimes:
    def __init__(self) -> None:
        self._measured: dict[int, StepTime] = {}
        self._sizes: list[int] = []

    def learn(self, tokens: int, compute_s: Sequence[float], hops_s: float) -> None:
        """`compute_s` by stage."""
        new = StepTime(compute_s=sum(compute_s), slowest_s=max(compute_s), hops_s=hops_s)
        old = self._measured.get(tokens)
        if old is None:
            insort(self._sizes, tokens)
        self._measured[tokens] = new if old is None else _between(old, new, SHARE_OF_NEWEST)

    def of(self, tokens: int) -> StepTime | None:
        """None as long as nothing was measured."""
        sizes = self._sizes
        if not sizes:
            return None
        at = bisect_left(sizes, tokens)
        below, above = sizes[max(0, at - 1)], sizes[min(at, len(sizes) - 1)]
        low, high = self._measured[below], self._measured[above]
        if not below < tokens < above:
            return high if tokens >= above else low
        return _between(low, high, (tokens - below) / (above - below))

    def worth(self, tokens: int, most: int) -> int:
        """To how many tokens, at most `most`, a frame of `tokens` should grow if half of what is
        added turns out to be of use.
        """
        now, size = self.of(tokens), tokens
        while now is not None and size < most:
            more = self.of(size + 1)
            assert more is not None
            if more.total_s > now.total_s * (1 + WORTH * (size + 1 - tokens) / tokens):
                return size
            size += 1
        return most

    def document(self) -> dict[str, float]:
        """Milliseconds of a step by tokens in its frame, for people."""
        return {
            str(tokens): round(1e3 * self._measured[tokens].total_s, 3) for tokens in self._sizes
        }


def _between(a: StepTime, b: StepTime, share: float) -> StepTime:
    """`a` at 0, `b` at 1."""
    return StepTime(
        compute_s=a.compute_s + share * (b.compute_s - a.compute_s),
        slowest_s=a.slowest_s + share * (b.slowest_s - a.slowest_s),
        hops_s=a.hops_s + share * (b.hops_s - a.hops_s),
    )
