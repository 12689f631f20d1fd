"""The sequences of one frame: which tokens of whom, who begins and who is forgotten. No token ids,
no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Segment(NamedTuple):
    """Tokens [first_position, first_position + tokens) of one sequence. A tuple, which is made
    quickly: each step has one for each sequence.
    """

    sequence: int
    first_position: int
    tokens: int
    samples: int
    """After how many of its last tokens the last stage samples: none in the middle of a prompt, one
    at its end and in a decode, and one more for each drafted token that the segment tries."""

    @property
    def end_position(self) -> int:
        return self.first_position + self.tokens

    @property
    def sampled_positions(self) -> range:
        """Of the tokens that the last stage finds: each stands behind one of the segment's."""
        return range(self.end_position - self.samples + 1, self.end_position + 1)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A sequence's first appearance, with its page table for all tokens it may ever have."""

    sequence: int
    pages: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What one frame holds. Segments are packed in order."""

    frame: int
    close: tuple[int, ...]
    open: tuple[Opening, ...]
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)
