"""What the scheduler is told (past tense) and what it orders (imperative). Every event carries its
time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edgeserve.errors import EdgeserveError
from edgeserve.frames.micro_batch import MicroBatch


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """Sequence numbers are never used twice."""

    sequence: int
    prompt_tokens: int
    max_new_tokens: int
    at_s: float
    page_hashes: tuple[bytes, ...] = ()
    """Of each full page of the prompt: of its tokens and all before them, and of whose they are."""
    scored_from: int | None = None
    """The first position of the prompt whose log-probability is wanted: from the token before it on
    all have to be computed. None if none is."""


class News(NamedTuple):
    """What a frame brought for one sequence that it sampled for. A tuple, which is made quickly."""

    tokens: int = 1
    """The sampled one, and drafts that it confirmed."""
    stopped: bool = False
    """The last of them is one of its stop tokens."""
    drafts: int = 0
    """How many tokens the gateway would try behind them."""
    page_hashes: tuple[bytes, ...] = ()
    """Of the pages that became full, behind those that are known."""


@dataclass(frozen=True, kw_only=True)
class FrameDone:
    """The last stage answered."""

    frame: int
    at_s: float
    news: Mapping[int, News] = field(default_factory=dict)
    """By sequence; of those that are still wanted."""
    compute_s: tuple[float, ...] = ()
    """By stage; empty if it was not measured, and then nothing is learned from it."""
    hops_s: float = 0.0
    """What its way took beside computing and waiting behind other frames."""


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
    """The sequence got its pages after `queued_s` in the queue; `cached_tokens` of its prompt are
    in them already.
    """

    sequence: int
    queued_s: float
    cached_tokens: int = 0


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
