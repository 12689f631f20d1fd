"""What a frame and its result are once they are off the wire. Payloads stay bytes; only `model/`
knows numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime


@dataclass(frozen=True, kw_only=True)
class Open:
    """Begins a sequence on a stage."""

    sequence: int
    pages: tuple[int, ...]
    sampling: Sampling
    history: tuple[int, ...] = ()
    """The prompt's token ids, if sampling needs them."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Tokens of a prompt whose log-probabilities are wanted, side by side."""

    first_position: int
    """Of the first of them, in the sequence; 1 or more, since nothing is before the first token."""
    tokens: tuple[int, ...]
    """Their ids."""
    top_logprobs: int = 0
    """How many of the most likely tokens are told beside each."""

    @property
    def end_position(self) -> int:
        return self.first_position + len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Frame:
    frame: int
    close: tuple[int, ...] = ()
    open: tuple[Open, ...] = ()
    segments: tuple[Segment, ...]
    payload: bytes
    """First stage: uint32 ids [tokens]. Others: hidden states [tokens, hidden]. Little-endian,
    packed.
    """
    masks: Mapping[int, bytes] = field(default_factory=dict)
    """By sequence, on the last stage: a bit for each token that may come next. Without one any
    may.
    """
    scores: Mapping[int, Score] = field(default_factory=dict)
    """By sequence, on the last stage. What a scored token follows is in the sequence's segment."""

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)


@dataclass(frozen=True, kw_only=True)
class Sampled:
    sequence: int
    token: int
    logprob: float
    """Natural logarithm, of the unfiltered distribution."""
    top: tuple[tuple[int, float], ...] = ()
    """Its most likely tokens and their log-probabilities, if sampling asks for them."""


class Scored(NamedTuple):
    """A token of a prompt. A tuple, which is made quickly: a frame may have thousands."""

    sequence: int
    token: int
    logprob: float
    """Natural logarithm, of the unfiltered distribution."""
    rank: int
    """1 + how many tokens are likelier."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens and their log-probabilities, if they were asked for."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The stage refused a frame and computed nothing."""

    error_type: str
    message: str


@dataclass(frozen=True, kw_only=True)
class FrameResult:
    frame: int
    time: StageTime
    sampled: tuple[Sampled, ...] = ()
    payload: bytes = b""
    """Hidden states [tokens, hidden]; empty from the last stage."""
    failure: Failure | None = None
    scored: tuple[Scored, ...] = ()
    """For each token of the frame's `scores`, in their order."""
