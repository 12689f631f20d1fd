"""Where the tokens of one frame come from and where their keys lie.

Computed once per frame, used by every layer. Tokens of several sequences are packed: row i of the
hidden states is token i of the frame. Refuses to know weights and values; knows positions, pages
and slots only.

    slot = page * 16 + offset in the page
    T tokens of the frame (or of one segment), S tokens of one sequence that its segment reads
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeserve.families.spec import PAGE_TOKENS


@dataclass(frozen=True)
class PagedSegment:
    """Tokens of one sequence at positions [first_position, first_position + tokens)."""

    pages: tuple[int, ...]
    """The sequence's page table: page i holds positions [16 i, 16 i + 16)."""
    first_position: int
    tokens: int

    def __post_init__(self) -> None:
        room = len(self.pages) * PAGE_TOKENS
        if self.first_position < 0 or self.tokens < 1 or self.end_position > room:
            raise ValueError(
                f"positions [{self.first_position}, {self.end_position}) are not in "
                f"{len(self.pages)} pages for {room} tokens"
            )

    @property
    def end_position(self) -> int:
        return self.first_position + self.tokens

    def slots(self, start: int, end: int) -> Sequence[int]:
        """The slots of positions [start, end). A range if the pages are consecutive, as they
        usually are.
        """
        first, last = start // PAGE_TOKENS, (end - 1) // PAGE_TOKENS
        page = self.pages[first]
        if self.pages[first : last + 1] == tuple(range(page, page + last + 1 - first)):
            slot = page * PAGE_TOKENS + start % PAGE_TOKENS
            return range(slot, slot + end - start)
        return [
            self.pages[p // PAGE_TOKENS] * PAGE_TOKENS + p % PAGE_TOKENS for p in range(start, end)
        ]


@dataclass(frozen=True, kw_only=True)
class Read:
    """What one segment's queries look at."""

    rows: slice
    """The segment's tokens in the frame."""
    slots: slice | Tensor
    """Of the S keys, in order of position. A slice is read as a view, without a copy."""
    is_causal: bool
    """The S keys are the T tokens themselves, and each sees what is not after it."""
    mask_TS: Tensor | None
    """Which key each token sees, where neither `is_causal` nor 'all' says it."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One frame, on a device."""

    segments: tuple[PagedSegment, ...]
    positions_T: Tensor
    slots_T: Tensor
    """Where the new keys and values are written."""

    @classmethod
    def build(cls, segments: Sequence[PagedSegment], device: torch.device | str) -> PackedBatch:
        positions: list[int] = []
        slots: list[int] = []
        for each in segments:
            positions += range(each.first_position, each.end_position)
            slots += each.slots(each.first_position, each.end_position)
        both = torch.tensor((positions, slots)).to(device, non_blocking=True)  # one copy, not two
        return cls(segments=tuple(segments), positions_T=both[0], slots_T=both[1])

    @property
    def tokens(self) -> int:
        return len(self.positions_T)

    def reads(self, window_tokens: int | None) -> list[Read]:
        """One for each segment, for a model whose tokens see `window_tokens` back."""
        return [
            _read(segment, row, window_tokens, self.slots_T.device)
            for segment, row in zip(self.segments, self._first_rows(), strict=True)
        ]

    def _first_rows(self) -> Iterator[int]:
        row = 0
        for each in self.segments:
            yield row
            row += each.tokens


def _read(segment: PagedSegment, row: int, window_tokens: int | None, device: torch.device) -> Read:
    first, end = segment.first_position, segment.end_position
    start = 0 if window_tokens is None else max(0, first - window_tokens + 1)
    slots = segment.slots(start, end)
    is_windowed = window_tokens is not None and segment.tokens > window_tokens
    is_causal = segment.tokens > 1 and first == 0 and not is_windowed
    # A single token sees all that is read: what its window hides is not read at all.
    needs_mask = segment.tokens > 1 and not is_causal
    return Read(
        rows=slice(row, row + segment.tokens),
        slots=(
            slice(slots.start, slots.stop)
            if isinstance(slots, range)
            else torch.tensor(slots, device=device)
        ),
        is_causal=is_causal,
        mask_TS=_mask(range(start, end), first, window_tokens, device) if needs_mask else None,
    )


def _mask(keys: range, first: int, window_tokens: int | None, device: torch.device) -> Tensor:
    """A token sees itself, and before it either everything or window_tokens - 1 tokens."""
    key_S = torch.arange(keys.start, keys.stop, device=device)
    query_T1 = torch.arange(first, keys.stop, device=device)[:, None]
    mask_TS = key_S <= query_T1
    return mask_TS if window_tokens is None else mask_TS & (key_S > query_T1 - window_tokens)
