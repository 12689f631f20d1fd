"""Notices a stage that has become slower than it was: heat, another process, a lower clock.

A stage is compared with itself, on frames of about as many tokens: its median over the last few
seconds with its median over minutes.

    ms of stage 1, blocks of 32 frames    29 29 30 29 | 31 35 36 36 36 35 | 31 29 29
                                          its median 29 | flagged: +24 %  | cleared

What slows every stage alike (contexts that grow, a machine that all stages share) is not the fault
of one, and no other cut would help: what the least affected stage shows is taken off. The median is
not fed while a stage is flagged, or it would call the heat normal after a while.

Not covered: stages that are slow from their first frame on; those the plan has measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

FLAG_SLOWDOWN = 0.15
"""Two runs of one card differ by 1 or 2 %, and the clock of a warm one by 5 %: this is neither."""
CLEAR_SLOWDOWN = FLAG_SLOWDOWN / 2
"""Lower, so that a stage at the threshold does not come and go."""
BLOCK_FRAMES = 32
"""Whose median is judged: 2 s of a 13B's steps. A dozen outliers in it move it little."""
BLOCK_S = 60.0
"""In which a block has to come together, or its frames say nothing about now."""
BLOCKS_KEPT = 64
"""A stage's own median is over these: minutes of steady work."""
BLOCKS_MIN = 4
"""Before which there is nothing to compare with."""


@dataclass(frozen=True, kw_only=True)
class Straggling:
    slowdown: float
    """0.2: frames take 1.2 times as long as they did."""
    since_s: float
    """When it was first noticed."""


@dataclass(kw_only=True)
class _SizeClass:
    """Frames of about as many tokens."""

    began_s: float
    block: list[Sequence[float]] = field(default_factory=list)
    """Compute times by stage, of the newest frames."""
    medians: tuple[deque[float], ...]
    """By stage, of blocks of frames in which the stage was itself."""


class Stragglers:
    """`measured` every frame; `now` says who straggles."""

    def __init__(self, stages: int) -> None:
        self.now: list[Straggling | None] = [None] * stages
        """By stage."""
        self.recent_s: tuple[float, ...] = ()
        """By stage: compute time of a frame of the last block; empty before the first."""
        self._classes: dict[int, _SizeClass] = {}

    def __copy__(self) -> Stragglers:
        """What it says now, without what it has learned."""
        other = Stragglers(len(self.now))
        other.now, other.recent_s = self.now.copy(), self.recent_s
        return other

    def measured(self, tokens: int, compute_s: Sequence[float], at_s: float) -> None:
        """A frame is through. `compute_s` by stage."""
        frames = self._class_of(tokens, at_s)
        if at_s - frames.began_s > BLOCK_S:
            frames.block.clear()
        if not frames.block:
            frames.began_s = at_s
        frames.block.append(compute_s)
        if len(frames.block) == BLOCK_FRAMES:
            self._judge(frames, at_s)
            frames.block.clear()

    def _class_of(self, tokens: int, at_s: float) -> _SizeClass:
        size = size_class(tokens)
        if size not in self._classes:
            medians = tuple(deque[float](maxlen=BLOCKS_KEPT) for _ in self.now)
            self._classes[size] = _SizeClass(began_s=at_s, medians=medians)
        return self._classes[size]

    def _judge(self, frames: _SizeClass, at_s: float) -> None:
        self.recent_s = tuple(median(times) for times in zip(*frames.block, strict=True))
        is_known = all(len(each) >= BLOCKS_MIN for each in frames.medians)
        if is_known:
            own_s = [median(each) for each in frames.medians]
            for stage, slowdown in enumerate(_slowdowns(self.recent_s, own_s)):
                self.now[stage] = _judged(self.now[stage], slowdown, at_s)
        for stage, medians in enumerate(frames.medians):
            if not (is_known and self.now[stage]):
                medians.append(self.recent_s[stage])


def size_class(tokens: int) -> int:
    """The same for frames that differ by an eighth at most; up to 15 tokens, each has its own."""
    dropped_bits = max(0, tokens.bit_length() - 4)
    return tokens >> dropped_bits << dropped_bits


def _slowdowns(recent_s: Sequence[float], own_s: Sequence[float]) -> list[float]:
    """Of each stage, beyond what all stages show."""
    ratios = [now / own if own > 0 else 1.0 for now, own in zip(recent_s, own_s, strict=True)]
    shared = max(1.0, min(ratios)) if len(ratios) > 1 else 1.0
    return [ratio / shared - 1 for ratio in ratios]


def _judged(before: Straggling | None, slowdown: float, at_s: float) -> Straggling | None:
    if before is None:
        is_slow = slowdown > FLAG_SLOWDOWN
        return Straggling(slowdown=slowdown, since_s=at_s) if is_slow else None
    if slowdown <= CLEAR_SLOWDOWN:
        return None
    return Straggling(slowdown=slowdown, since_s=before.since_s)
