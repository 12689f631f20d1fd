"""One frame's whereabouts as a table of integers: what the fused kernels read, in one copy.

Eight numbers a row. A row is three things at once, which have nothing to do with one another:
token i's position and slot, the i-th row whose next token is wanted, and the i-th tile of queries,
with how many keys each of its parts has.
Below it the page tables, one row for each segment. All of it lies in one piece of memory, so that
it reaches a device in one copy and a CUDA graph finds it where it was.

    row i   [ position, slot | asked | segment, first row, tokens, first position, keys of a part ]
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

from edgeserve.cost.reserve import GRID_PROGRAMS_MAX
from edgeserve.errors import WireError
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.model.batch import PagedSegment

FIELDS = 8
POSITION_FIELD, SLOT_FIELD, ASKED_FIELD, TILE_FIELD = 0, 1, 2, 3
TILE_FIELDS, PART_KEYS_FIELD = 4, 7
DECODE_QUERIES, PROMPT_QUERIES = 16, 64
"""Of a tile: the fewest that tensor cores take, and so many that the keys before a prompt's chunk
are read a quarter as often."""
BLOCK_KEYS = 32
"""Two pages, that a program has of a sequence's keys at a time. With heads of 128 in fp16 keys and
values of a block are 16 KiB: see `stages_for`."""
WIDE_HEAD = 128
"""Numbers of a head: above, a tile of 64 queries and 32 keys has more than a program's registers
hold. In fp32, which tensor cores do not multiply, even half of it has."""
PARTS_MAX = 32
"""A sequence of 8,192 tokens then still gives each part eight blocks of keys."""
PROGRAMS_PER_PROCESSOR = 4
"""Enough to hide the latency of memory behind one another; more only costs the joining."""
PROGRAM_BYTES = 1024
"""Of a processor's shared memory, which the driver keeps for each program."""
GRID_FILLS = 8
"""A graph is recorded with as many parts as one long sequence among short ones may need, up to so
many times the programs that the device has at once. Those without keys read one row of the table
and end: that takes about a microsecond for all of them (computed, see docs/performance.md)."""


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How many there are of each thing in a table, and how attention cuts its work."""

    rows: int
    asked: int
    tiles: int
    tile_queries: int
    """In one tile at most: tokens times the query heads that share a key."""
    parts: int
    """Of the keys of one sequence, at most, to be read side by side."""
    segments: int
    pages_each: int
    """W, whatever the sequences have."""
    parts_wanted: int = 1
    """Of all sequences together: as many as give every processor something to do."""
    window_tokens: int | None = None
    stages: int = 2
    """Of the loop over keys: with 3, two blocks are under way while one is computed with."""

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
        if self.extent.parts > 1:
            rows[: len(tiles), PART_KEYS_FIELD] = part_keys(tiles, self.extent)


def pages_each(context_tokens: int, pages: int) -> int:
    """The longest page table: for the whole context, and one page of guesses beyond it."""
    return min(pages, -(-context_tokens // PAGE_TOKENS) + 1)


def tile_queries(group: int, wanted: int) -> int:
    """A power of two, and room for one token of which `group` heads share a key."""
    return max(wanted, 1 << (group - 1).bit_length())


def prompt_queries(head_dim: int, dtype: torch.dtype) -> int:
    """Of a tile of a prompt: as many as a program has registers for."""
    return max(DECODE_QUERIES, PROMPT_QUERIES >> _halvings(head_dim, dtype))


def block_keys(head_dim: int, dtype: torch.dtype) -> int:
    """That a program has at a time: no fewer than tensor cores take."""
    return max(DECODE_QUERIES, BLOCK_KEYS >> _halvings(head_dim, dtype))


def stages_for(processor_bytes: int, head_dim: int, dtype: torch.dtype) -> int:
    """Of a decode's loop over keys, on a processor with so much shared memory.

    Two blocks under way and one in use (3 stages) hide more of the memory's latency inside a
    program, but only where as many programs as before fit side by side: with heads of 128 in fp16
    37 KiB each instead of 21, so on an A100 (164 KiB) and an H100 (228), and not on an RTX 3060
    (100). What fits hides latency behind other programs instead.
    """
    row_bytes = _padded(head_dim) * dtype.itemsize
    keys = block_keys(head_dim, dtype)
    blocks = 2 * 2 * keys * row_bytes  # two, of keys and values
    queries = DECODE_QUERIES * (row_bytes + keys * dtype.itemsize)
    fits = PROGRAMS_PER_PROCESSOR * (blocks + queries + PROGRAM_BYTES) <= processor_bytes
    return 3 if fits else 2


def parts_wanted(kv_heads: int, processors: int) -> int:
    """As many parts of sequences as give every processor of the device something to do."""
    return math.ceil(PROGRAMS_PER_PROCESSOR * processors / kv_heads)


def parts_for(tiles: int, kv_heads: int, processors: int) -> int:
    """Of one sequence, if the others are short; as many as GRID_FILLS allows, and the memory that
    is reserved for their results.
    """
    programs = min(GRID_FILLS * PROGRAMS_PER_PROCESSOR * processors, GRID_PROGRAMS_MAX)
    room = programs // (tiles * kv_heads)
    return max(1, min(PARTS_MAX, parts_wanted(kv_heads, processors), room))


def part_keys(tiles: Sequence[Tile], extent: Extent) -> list[int]:
    """Keys of each part of every tile. A long sequence is read by more programs than a short one
    beside it, so that the last of them ends as early as may be. No tile has more parts than the
    table's; all together have about as many as are wanted, and one each at least.
    """
    window = extent.window_tokens
    keys = [
        tile.first_position + tile.tokens
        if window is None
        else min(tile.first_position, window - 1) + tile.tokens
        for tile in tiles
    ]
    # In whole numbers: one part more than there is room for, and its keys would not be read.
    least = max(-(-max(keys) // extent.parts), -(-sum(keys) // extent.parts_wanted))
    parts = [-(-each // least) for each in keys]
    return [
        -(-each // (count * BLOCK_KEYS)) * BLOCK_KEYS
        for each, count in zip(keys, parts, strict=True)
    ]


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


def _halvings(head_dim: int, dtype: torch.dtype) -> int:
    """Of a tile of 64 queries and 32 keys, until no register is spilled."""
    return int(_padded(head_dim) > WIDE_HEAD) + 2 * int(dtype is torch.float32)


def _padded(head_dim: int) -> int:
    """To a power of two, and to the least that tensor cores take."""
    return max(16, 1 << (head_dim - 1).bit_length())


@functools.lru_cache(maxsize=1024)
def _page_row(pages: tuple[int, ...]) -> np.ndarray:
    """A sequence's page table never changes, and is needed for each of its tokens."""
    return np.array(pages, dtype=np.int32)
