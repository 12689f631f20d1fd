"""Where the tokens of one frame come from and where their keys lie.

Computed once per frame, used by every layer. Tokens of several sequences are packed: row i of the
hidden states is token i of the frame. Refuses to know weights and values; knows positions, pages
and slots only.

    slot = page * 16 + offset in the page
    T tokens of the frame (or of one segment), S tokens of one sequence that its segment reads,
    B segments that are computed together
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeserve.families.spec import PAGE_TOKENS

TOGETHER_TOKENS_MAX = 16
"""Decodes and verified guesses are computed together; a piece of a prompt is work enough alone."""
TOGETHER_KEYS_MAX = 512
"""Sequences that read more keys are read alone, as they lie: at 1024 copying them side by side
costs what the calls do that it saves (docs/LOG.md)."""
GROUP_KEYS_MAX = 8192
"""Copied at once: 2 x 64 MiB with 32 key heads of 128 in bf16."""


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
class Group:
    """B segments of T tokens each, whose queries look at S keys each: one computation for all.

    A sequence with fewer keys repeats its newest, which the mask hides: never a stranger's.
    """

    rows: slice | Tensor
    """Their tokens in the frame, segment after segment."""
    slots: slice | Tensor
    """Of B times S keys. A slice is read as a view, without a copy."""
    segments: int
    mask_BTS: Tensor | None
    """Added to the scores: 0 where a token sees the key, else minus infinity. None: all see all."""


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

    def groups(self, window_tokens: int | None, dtype: torch.dtype) -> list[Read | Group]:
        """The same segments, those that are alike together; masks are made for `dtype`.

        PyTorch's own attention is the quicker one for a segment alone that needs no mask.
        """
        alike: defaultdict[tuple[int, int], list[_Placed]] = defaultdict(list)
        for number, (segment, row) in enumerate(
            zip(self.segments, self._first_rows(), strict=True)
        ):
            placed = _Placed.at(row, segment, window_tokens)
            alike[segment.tokens, placed.keys_at_most or -number].append(placed)
        device = self.slots_T.device
        found: list[Read | Group] = []
        for placed_alike in alike.values():
            for some in _parts(placed_alike):
                alone = _read(some[0].segment, some[0].row, window_tokens, device)
                is_simple = len(some) == 1 and alone.mask_TS is None
                group = None if is_simple else _group(some, window_tokens, dtype, device)
                found.append(group or alone)
        return found

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


@dataclass(frozen=True)
class _Placed:
    """A segment, its first row in the frame, and the keys [start, end) that its tokens look at."""

    row: int
    segment: PagedSegment
    start: int

    @classmethod
    def at(cls, row: int, segment: PagedSegment, window_tokens: int | None) -> _Placed:
        reach = segment.first_position + 1
        return cls(row, segment, max(0, reach - (window_tokens or reach)))

    @property
    def keys(self) -> int:
        return self.segment.end_position - self.start

    @property
    def keys_at_most(self) -> int:
        """Keys as a power of two, so that little is padded; 0 if it is better computed alone."""
        alone = self.keys > TOGETHER_KEYS_MAX or self.segment.tokens > TOGETHER_TOKENS_MAX
        return 0 if alone else 1 << (self.keys - 1).bit_length()


def _parts(alike: list[_Placed]) -> Iterator[list[_Placed]]:
    """Of as many segments as may be copied side by side."""
    size = GROUP_KEYS_MAX // (alike[0].keys_at_most or GROUP_KEYS_MAX)
    for start in range(0, len(alike), size):
        yield alike[start : start + size]


def _group(
    placed: list[_Placed], window_tokens: int | None, dtype: torch.dtype, device: torch.device
) -> Group:
    start_B1 = torch.tensor([[each.start] for each in placed])
    first_B1 = torch.tensor([[each.segment.first_position] for each in placed])
    tokens = placed[0].segment.tokens
    position_BS = start_B1 + torch.arange(max(each.keys for each in placed))
    query_BT = first_B1 + torch.arange(tokens)
    visible_BTS = position_BS[:, None] <= query_BT[..., None]
    if window_tokens is not None:
        visible_BTS &= position_BS[:, None] > query_BT[..., None] - window_tokens
    mask_BTS = torch.zeros(visible_BTS.shape, dtype=dtype).masked_fill_(~visible_BTS, -torch.inf)
    first_row, segments = placed[0].row, len(placed)
    follow = all(each.row == first_row + i * tokens for i, each in enumerate(placed))
    rows_BT = torch.tensor([[each.row] for each in placed]) + torch.arange(tokens)
    return Group(
        rows=(
            slice(first_row, first_row + segments * tokens)
            if follow
            else rows_BT.flatten().to(device)
        ),
        slots=_slots(placed, position_BS, device),
        segments=segments,
        mask_BTS=None if bool(visible_BTS.all()) else mask_BTS.to(device),
    )


def _slots(placed: list[_Placed], position_BS: Tensor, device: torch.device) -> slice | Tensor:
    if len(placed) == 1:
        [only] = placed
        slots = only.segment.slots(only.start, only.segment.end_position)
        if isinstance(slots, range):
            return slice(slots.start, slots.stop)
    newest_B1 = torch.tensor([[each.segment.end_position - 1] for each in placed])
    position_BS = torch.minimum(position_BS, newest_B1)
    longest = max(len(each.segment.pages) for each in placed)
    table_BX = torch.tensor(
        [[*each.segment.pages, *[0] * (longest - len(each.segment.pages))] for each in placed]
    )
    page_BS = table_BX.gather(1, position_BS // PAGE_TOKENS)
    return (page_BS * PAGE_TOKENS + position_BS % PAGE_TOKENS).flatten().to(device)
