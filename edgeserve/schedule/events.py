"""What the scheduler is told (past tense) and what it orders (imperative). Every event carries its
time.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve.errors import EdgeserveError
from edgeserve.schedule.micro_batch import MicroBatch


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """Sequence numbers are never used twice."""

    sequence: int
    prompt_tokens: int
    max_new_tokens: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class FrameDone:
    """The last stage answered. `stopped` are those that sampled one of their stop tokens."""

    frame: int
    stopped: frozenset[int]
    at_s: float


@dataclass(frozen=True, kw_only=True)
class FrameFailed:
    """A stage refused the frame and computed nothing. Its sequences are lost, the others go on."""

    frame: int
    error: EdgeserveError
    at_s: float


@dataclass(frozen=True, kw_only=True)
class Cancelled:
    """Nobody wants the sequence any more."""

    sequence: int
    at_s: float


@dataclass(frozen=True, kw_only=True)
class StageLost:
    """No frame can pass. `error` is what requests are told."""

    error: EdgeserveError
    at_s: float


@dataclass(frozen=True, kw_only=True)
class StageBack:
    """All stages can compute again, and have forgotten every sequence or will."""

    at_s: float


@dataclass(frozen=True, kw_only=True)
class Ticked:
    """Time passed, so that waiting has a bound even when nothing else happens."""

    at_s: float


@dataclass(frozen=True, kw_only=True)
class Send:
    micro_batch: MicroBatch


@dataclass(frozen=True, kw_only=True)
class Admit:
    """The sequence got its pages after `queued_s` in the queue."""

    sequence: int
    queued_s: float


@dataclass(frozen=True, kw_only=True)
class Reject:
    """The sequence never began."""

    sequence: int
    error: EdgeserveError


@dataclass(frozen=True, kw_only=True)
class Finish:
    """`reason` is 'length' or 'eos_token'."""

    sequence: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Fail:
    """The sequence began and cannot end well."""

    sequence: int
    error: EdgeserveError


Event = Arrived | FrameDone | FrameFailed | Cancelled | StageLost | StageBack | Ticked
Action = Send | Admit | Reject | Finish | Fail
