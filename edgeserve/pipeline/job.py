"""One sequence, as the driver sees it: its tokens, what is drafted behind them, and who waits."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeserve.frames.micro_batch import Segment
from edgeserve.pipeline.draft import Drafter, accepted
from edgeserve.pipeline.generation import Generation, Order, Token
from edgeserve.pipeline.page_hash import PageHashes
from edgeserve.schedule.events import News
from edgeserve.timing.ledger import Ledger
from edgeserve.wire.frame import Sampled, Score


@dataclass(kw_only=True)
class Job:
    order: Order
    tokens: list[int]
    """Prompt and everything sampled so far: the token at a position stands at that index."""
    ledger: Ledger
    generation: Generation
    drafter: Drafter | None
    """None if nothing is to be drafted for it."""
    ready_s: float = 0.0
    """Since when nothing but other frames keeps it from being sent."""
    hashes: PageHashes = field(init=False)

    def __post_init__(self) -> None:
        self.hashes = PageHashes(self.order.tenant)

    def token_ids(self, segment: Segment) -> list[int]:
        """Those of the segment; drafts stand behind the newest token."""
        ids = self.tokens[segment.first_position : segment.end_position]
        return ids + self.drafts(segment)

    def drafts(self, segment: Segment) -> list[int]:
        """Those that the segment tries."""
        count = max(0, segment.samples - 1)
        return self.drafter.proposal[:count] if self.drafter and count else []

    def mask(self, segment: Segment) -> bytes:
        """Of the tokens that may come behind the segment; empty if all may."""
        guide = self.order.guide
        return guide.mask() if guide is not None and segment.samples else b""

    def score(self, segment: Segment) -> Score | None:
        """The tokens to be scored behind those of the segment; the last may be in the next one."""
        scoring, prompt = self.order.scoring, self.order.prompt
        if scoring is None:
            return None
        first = max(scoring.first_position, segment.first_position + 1)
        tokens = prompt[first : segment.end_position + 1]
        if not tokens:
            return None
        return Score(first_position=first, tokens=tokens, top_logprobs=scoring.top_logprobs)

    def sampled(self, found: Sequence[Sampled], drafts: Sequence[int], now_s: float) -> list[Token]:
        """The new tokens: what was sampled behind the newest one, and behind each draft that came
        true.

        Raises EdgeserveError if the order's guide knows no way on.
        """
        stop_ids = self.order.stop_ids
        count = accepted([each.token for each in found], drafts, stop_ids)
        new = [Token(each.token, each.logprob, each.top) for each in found[:count]]
        self.tokens += [each.token for each in new]
        self.ready_s = now_s
        if self.order.guide is not None and self.tokens[-1] not in stop_ids:
            self.order.guide.advance(self.tokens[-1])
        if self.drafter is not None:
            self.drafter.tried(len(drafts), count - 1)
            self.drafter.propose(self._tokens_left - 1)
        return new

    def news(self, tokens: int) -> News:
        """What the scheduler has to know of the newest `tokens` tokens."""
        return News(
            tokens=tokens,
            stopped=self.tokens[-1] in self.order.stop_ids,
            drafts=len(self.drafter.proposal) if self.drafter else 0,
            page_hashes=self.hashes.extend(self.tokens),
        )

    @property
    def cancel_reason(self) -> str:
        """Its answer was complete before its tokens were, or its client went away."""
        return "stop_sequence" if self.generation.is_answered else "cancelled"

    @property
    def _tokens_left(self) -> int:
        return self.order.max_new_tokens - (len(self.tokens) - len(self.order.prompt))


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """The payload of a frame for the first stage."""
    return struct.pack(f"<{len(token_ids)}I", *token_ids)
