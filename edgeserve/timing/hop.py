"""One visit of a frame to one stage, as the gateway saw it and as the stage accounts for it.

The gateway knows when a frame left and when it came back; the stage says how long it did what. The
difference is transfer. No clock is compared with another machine's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from edgeserve.frames.stage_time import StageTime


@dataclass(frozen=True, kw_only=True)
class Hop:
    """`sent_s` and `returned_s` are the gateway's clock."""

    stage: int
    sent_s: float
    returned_s: float
    inside: StageTime

    @property
    def round_trip_s(self) -> float:
        return self.returned_s - self.sent_s

    @property
    def transfer_s(self) -> float:
        """What the round trip took beyond the time that the stage accounts for."""
        return max(0.0, self.round_trip_s - self.inside.held_s)

    @property
    def on_the_way_s(self) -> float:
        """The round trip but for computing and waiting behind other frames."""
        return max(0.0, self.round_trip_s - self.inside.compute_s - self.inside.queue_s)

    @cached_property
    def split(self) -> Split:
        """The whole hop by kind. A stage that claims more than the round trip is scaled to it.

        Kept: every sequence of the frame books it.
        """
        inside = self.inside
        scale = min(1.0, self.round_trip_s / inside.held_s) if inside.held_s > 0 else 1.0
        return Split(
            compute_s=inside.compute_s * scale,
            transfer_s=self.transfer_s,
            waiting_s=inside.queue_s * scale,
        )


class Split(NamedTuple):
    """Time by kind, without the rest.

    A tuple: a long answer's receipt adds up thousands, and others take six times as long to make.
    """

    compute_s: float = 0.0
    transfer_s: float = 0.0
    waiting_s: float = 0.0

    @classmethod
    def total(cls, splits: Iterable[Split]) -> Split:
        return cls(*map(sum, zip(*splits, strict=True)))

    @property
    def total_s(self) -> float:
        return self.compute_s + self.transfer_s + self.waiting_s

    def scaled(self, factor: float) -> Split:
        return Split(self.compute_s * factor, self.transfer_s * factor, self.waiting_s * factor)


@dataclass(frozen=True, kw_only=True)
class Lap:
    """One frame's way through all stages, for one sequence in it."""

    ready_s: float
    """When nothing but other frames kept the sequence from being sent."""
    ordered_s: float
    """When the scheduler ordered it to be sent."""
    hops: tuple[Hop, ...]
    done_s: float
    """When the driver had the last stage's answer."""
