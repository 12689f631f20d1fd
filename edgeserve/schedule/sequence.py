"""One admitted request, as the scheduler sees it: how far it is, and where its pages are."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.frames.micro_batch import Segment
from edgeserve.schedule.events import Arrived


@dataclass(kw_only=True)
class Sequence:
    arrived: Arrived
    pages: tuple[int, ...] = ()
    admitted_s: float = 0.0
    ordered_tokens: int = 0
    """Prompt tokens that are in a frame, were, or need none because their pages were known."""
    generated: int = 0
    drafts: int = 0
    """Tokens that the gateway would try behind the newest one."""
    hashes: list[bytes] = field(default_factory=list)
    """Of its full pages, as far as they are known."""
    named_pages: int = 0

    @property
    def number(self) -> int:
        return self.arrived.sequence

    @property
    def pages_needed(self) -> int:
        """For the worst case: the prompt and every token it may generate."""
        tokens = self.arrived.prompt_tokens + self.arrived.max_new_tokens
        return math.ceil(tokens / PAGE_TOKENS)

    @property
    def shareable_hashes(self) -> tuple[bytes, ...]:
        """Of the prompt before the first token that must run: its last one, so that there is an
        answer, or what stands before the first one to be scored.
        """
        scored_from = self.arrived.scored_from or self.arrived.prompt_tokens
        must_run = min(scored_from, self.arrived.prompt_tokens) - 1
        return self.arrived.page_hashes[: must_run // PAGE_TOKENS]

    @property
    def prompt_left(self) -> int:
        return self.arrived.prompt_tokens - self.ordered_tokens

    def next_decode(self, drafts: int) -> Segment:
        """The newest token, whose keys and values no stage has yet, and drafts behind it."""
        position = self.arrived.prompt_tokens + self.generated - 1
        return Segment(
            sequence=self.number, first_position=position, tokens=1 + drafts, samples=1 + drafts
        )

    def next_chunk(self, tokens: int) -> Segment:
        first = self.ordered_tokens
        self.ordered_tokens += tokens
        return Segment(
            sequence=self.number,
            first_position=first,
            tokens=tokens,
            samples=int(self.prompt_left == 0 and self.arrived.max_new_tokens > 0),
        )

    def answers(self, segment: Segment) -> bool:
        """Whether its result is a step of the answer: new tokens, or the end of a prompt that none
        is to follow.
        """
        return segment.samples > 0 or segment.end_position == self.arrived.prompt_tokens
