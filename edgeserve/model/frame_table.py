"""One frame's whereabouts as a table of integers: what the fused kernels read, in one copy.

Eight numbers a row. A row is three things at once, which have nothing to do with one another:
token i's position and slot, the i-th row whose next token is wanted, and the i-th tile of queries.
Below it the page tables, one row for each segment. All of it lies in one piece of memory, so that
it reaches a device in one copy and a CUDA graph finds it where it was.

    row i   [ position, slot | asked | segment, first row, tokens, first position | spare ]
             token i           i-th    tile i

A table may have more rows than its frame: slot -1 is never written, and a tile without tokens does
nothing. Refuses to know tensors with meaning: no weights, no hidden states.

    T tokens (or as many rows as a graph has), S segments, W pages that a sequence may have
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from edgeserve.errors import WireError
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.model.batch import PagedSegment

FIELDS = 8
POSITION_FIELD, SLOT_FIELD, ASKED_FIELD, TILE_FIELD = 0, 1, 2, 3
TILE_FIELDS = 4
DECODE_QUERIES, PROMPT_QUERIES = 16, 64
"""Of a tile: the fewest that tensor cores take, and so many that the keys before a prompt's chunk
are read a quarter as often."""
PARTS_MAX = 32
"""A sequence of 8,192 tokens then still gives each part eight blocks of keys."""
PROGRAMS_PER_PROCESSOR = 4
"""Enough to hide the latency of memory behind one another; more only costs the joining."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How many there are of each thing in a table, and how attention cuts its work."""

    rows: int
    asked: int
    tiles: int
    tile_queries: int
    """In one tile at most: tokens times the query heads that share a key."""
    parts: int
    """Of the keys of each sequence, to be read side by side."""
    segments: int
    pages_each: int
    """W, whatever the sequences have."""

    @property
    def numbers(self) -> int:
        return self.rows * FIELDS + self.segments * self.pages_each


class Tile(NamedTuple):
    """Tokens of one segment whose queries one program of the attention kernel has."""

    segment: int
    first_row: int
    tokens: int
    first_position: int


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """Views of one piece of memory, `flat`."""

    extent: Extent
    flat: Tensor
    rows_T8: Tensor
    pages_SW: Tensor

    @classmethod
    def over(cls, flat: Tensor, extent: Extent) -> FrameTable:
        rows, pages = flat.tensor_split((extent.rows * FIELDS,))
        return cls(
            extent=extent,
            flat=flat,
            rows_T8=rows.view(extent.rows, FIELDS),
            pages_SW=pages.view(extent.segments, extent.pages_each),
        )

    @property
    def positions_T(self) -> Tensor:
        return self.rows_T8[:, POSITION_FIELD]

    @property
    def asked_N(self) -> Tensor:
        """Rows whose next token is wanted."""
        return self.rows_T8[: self.extent.asked, ASKED_FIELD]

    def clear(self) -> None:
        """Nothing but padding: no tile looks at a page table."""
        self.rows_T8.zero_()
        self.rows_T8[:, SLOT_FIELD] = -1

    def fill(
        self, segments: Sequence[PagedSegment], asked: Sequence[int], tiles: Sequence[Tile]
    ) -> None:
        """Only where its memory is the host's. Raises WireError for what it has no room for.

        In plain Python: a decode has a number or two for each segment, for which numpy's calls cost
        more than the arithmetic.
        """
        self.clear()
        rows, pages = self.rows_T8.numpy(), self.pages_SW.numpy()
        places: list[tuple[int, int]] = []
        for number, each in enumerate(segments):
            page_row, end = each.pages, each.end_position
            places += [
                (at, page_row[at // PAGE_TOKENS] * PAGE_TOKENS + at % PAGE_TOKENS)
                for at in range(each.first_position, end)
            ]
            used = -(-end // PAGE_TOKENS)
            if used > self.extent.pages_each:
                raise WireError(
                    f"position {end - 1} needs {used} pages, but the model's context has "
                    f"{self.extent.pages_each}; the gateway should not have let the request in"
                )
            pages[number, :used] = _page_row(page_row)[:used]
        rows[: len(places), :ASKED_FIELD] = places
        rows[: len(asked), ASKED_FIELD] = asked
        rows[: len(tiles), TILE_FIELD : TILE_FIELD + TILE_FIELDS] = tiles


def pages_each(context_tokens: int, pages: int) -> int:
    """The longest page table: for the whole context, and one page of guesses beyond it."""
    return min(pages, -(-context_tokens // PAGE_TOKENS) + 1)


def tile_queries(group: int, wanted: int) -> int:
    """A power of two, and room for one token of which `group` heads share a key."""
    return max(wanted, 1 << (group - 1).bit_length())


def parts_for(tiles: int, kv_heads: int, processors: int) -> int:
    """As many as give every processor of the device something to do."""
    wanted = PROGRAMS_PER_PROCESSOR * processors
    return min(PARTS_MAX, max(1, math.ceil(wanted / (tiles * kv_heads))))


def tiles_of(segments: Sequence[PagedSegment], tile_tokens: int) -> list[Tile]:
    """All tokens of the segments, in tiles of one segment each."""
    tiles, first_row = [], 0
    for number, each in enumerate(segments):
        for at in range(0, each.tokens, tile_tokens):
            tokens = min(tile_tokens, each.tokens - at)
            tiles.append(Tile(number, first_row + at, tokens, each.first_position + at))
        first_row += each.tokens
    return tiles


def empty_table(extent: Extent, device: torch.device | str, *, pinned: bool = False) -> FrameTable:
    """Memory, not yet numbers."""
    flat = torch.empty(extent.numbers, dtype=torch.int32, device=device, pin_memory=pinned)
    return FrameTable.over(flat, extent)


@functools.lru_cache(maxsize=1024)
def _page_row(pages: tuple[int, ...]) -> np.ndarray:
    """A sequence's page table never changes, and is needed for each of its tokens."""
    return np.array(pages, dtype=np.int32)
