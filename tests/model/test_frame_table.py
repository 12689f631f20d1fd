"""A frame as a table of integers: everything is where kernels look, the rest does nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgeserve.cost.reserve import GRAPH_ROWS, GRID_PROGRAMS_MAX
from edgeserve.errors import WireError
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import (
    BLOCK_KEYS,
    PART_KEYS_FIELD,
    PARTS_MAX,
    Extent,
    FrameTable,
    Tile,
    block_keys,
    pages_each,
    part_keys,
    parts_for,
    parts_wanted,
    prompt_queries,
    stages_for,
    tile_queries,
    tiles_of,
)

DECODE, GUESSES = PagedSegment((7, 2), 17, 1), PagedSegment((5, 0, 3), 14, 4)
EXTENT = Extent(
    rows=8, asked=8, tiles=8, tile_queries=16, parts=1, segments=8, pages_each=3,
)  # fmt: skip


def garbage() -> FrameTable:
    """What a table's memory holds before."""
    return FrameTable.over(torch.full((EXTENT.numbers,), 12345, dtype=torch.int32), EXTENT)


def test_a_row_holds_a_token_an_asked_row_and_a_tile() -> None:
    table = garbage()
    table.fill([DECODE, GUESSES], [0, 4], tiles_of([DECODE, GUESSES], 3))

    assert table.rows_T8.tolist() == [
        # position, slot, asked, segment, first row, tokens, first position
        [17, 2 * 16 + 1, 0, 0, 0, 1, 17, 0],
        [14, 5 * 16 + 14, 4, 1, 1, 3, 14, 0],
        [15, 5 * 16 + 15, 0, 1, 4, 1, 17, 0],
        [16, 0, 0, 0, 0, 0, 0, 0],
        [17, 1, 0, 0, 0, 0, 0, 0],
        # and padding: slot -1, a tile without tokens, and an asked row that exists
        *[[0, -1, 0, 0, 0, 0, 0, 0]] * 3,
    ]
    assert table.pages_SW[0, :2].tolist() == [7, 2]
    assert table.pages_SW[1, :2].tolist() == [5, 0]  # what is not reached yet is not needed
    assert table.asked_N.tolist() == [0, 4, 0, 0, 0, 0, 0, 0]


def test_one_piece_of_memory_holds_it_all() -> None:
    table = garbage()
    table.fill([GUESSES], [3], tiles_of([GUESSES], 16))

    again = FrameTable.over(table.flat.clone(), EXTENT)

    assert torch.equal(again.rows_T8, table.rows_T8)
    assert torch.equal(again.pages_SW, table.pages_SW)


def test_page_tables_begin_where_kernels_may_read_16_bytes_at_once() -> None:
    """Or Triton would compile them once more for each size of frame."""
    for rows in range(1, 20):
        extent = Extent(
            rows=rows, asked=1, tiles=1, tile_queries=16, parts=1, segments=1, pages_each=5
        )
        table = FrameTable.over(torch.zeros(extent.numbers, dtype=torch.int32), extent)

        assert table.pages_SW.storage_offset() * 4 % 16 == 0


def test_a_page_table_longer_than_the_context_is_refused() -> None:
    beyond = PagedSegment((1, 2, 3, 4), 48, 1)

    with pytest.raises(WireError, match="position 48 needs 4 pages, but the model's context has 3"):
        garbage().fill([beyond], [0], tiles_of([beyond], 16))


def test_tiles_cover_every_token_once_and_mix_no_segments() -> None:
    assert tiles_of([PagedSegment((1, 2), 3, 7), DECODE], 4) == [
        Tile(segment=0, first_row=0, tokens=4, first_position=3),
        Tile(segment=0, first_row=4, tokens=3, first_position=7),
        Tile(segment=1, first_row=7, tokens=1, first_position=17),
    ]


@pytest.mark.parametrize(("group", "queries"), [(1, 16), (7, 16), (16, 16), (17, 32), (71, 128)])
def test_a_tile_has_room_for_a_token(group: int, queries: int) -> None:
    assert tile_queries(group, 16) == queries


def test_a_sequence_may_be_cut_until_every_processor_has_something_to_do() -> None:
    # An RTX 3060 has 28 processors, an H200 132; Llama-2 13B has 40 key heads, Llama 3 8B has 8.
    rows = (1, 8, 16, 64)
    assert [parts_for(each, 40, 28) for each in rows] == [3, 2, 1, 1]
    assert [parts_for(each, 40, 132) for each in rows] == [14, 13, 6, 1]
    assert [parts_for(each, 8, 28) for each in rows] == [14, 14, 7, 1]
    assert parts_for(1, 1, 132) == PARTS_MAX


@pytest.mark.parametrize("processors", [28, 132, 192, 500])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8, 32, 40])
def test_parts_have_no_more_results_than_memory_is_reserved_for(
    kv_heads: int, processors: int
) -> None:
    for rows in GRAPH_ROWS:
        parts = parts_for(rows, kv_heads, processors)
        assert parts == 1 or rows * parts * kv_heads <= GRID_PROGRAMS_MAX


@pytest.mark.parametrize("processors", [28, 132])
@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8, 32, 40])
def test_a_grid_is_no_larger_than_what_ends_in_no_time(kv_heads: int, processors: int) -> None:
    for rows in (1, 2, 4, *range(8, 65, 8)):
        programs = rows * kv_heads * parts_for(rows, kv_heads, processors)
        assert programs <= max(rows * kv_heads, 8 * 4 * processors)


def cut(*lengths: int, processors: int, window: int | None = None) -> list[int]:
    """In how many parts each of these decodes is read, in Llama-2 13B."""
    segments = [PagedSegment(tuple(range(-(-n // 16))), n - 1, 1) for n in lengths]
    extent = Extent(
        rows=len(lengths), asked=1, tiles=len(lengths), tile_queries=16,
        parts=parts_for(len(lengths), 40, processors), parts_wanted=parts_wanted(40, processors),
        segments=len(lengths), pages_each=256, window_tokens=window,
    )  # fmt: skip
    table = FrameTable.over(torch.zeros(extent.numbers, dtype=torch.int32), extent)
    table.fill(segments, [0], tiles_of(segments, 16))
    if extent.parts == 1:
        return [1] * len(lengths)
    keys = table.rows_T8[:, PART_KEYS_FIELD].tolist()
    assert all(each > 0 == each % BLOCK_KEYS for each in keys)
    return [-(-min(n, window or n) // each) for n, each in zip(lengths, keys, strict=True)]


def test_a_long_sequence_is_read_by_more_programs_than_a_short_one_beside_it() -> None:
    assert cut(4096, processors=28) == [3]
    assert cut(4096, processors=132) == [13]
    assert cut(*[1024] * 8, processors=28) == [1] * 8
    assert cut(*[1024] * 8, processors=132) == [2] * 8
    assert cut(4096, *[256] * 7, processors=28) == [2, *[1] * 7]
    assert cut(4096, *[256] * 7, processors=132) == [10, *[1] * 7]
    assert cut(*[64] * 15, 4096, processors=132) == [*[1] * 15, 6]


def test_a_window_counts_as_what_is_read_of_a_sequence() -> None:
    assert cut(4096, 512, processors=132, window=512) == [6, 6]
    assert cut(40, 30, processors=132, window=512) == [2, 1]


def test_no_tile_has_more_parts_than_there_is_room_for() -> None:
    random = np.random.default_rng(0)
    for _ in range(300):
        count, processors = int(random.integers(1, 33)), int(random.choice([16, 28, 132]))
        lengths = [int(n) for n in random.integers(1, 4096, count)]
        found = cut(*lengths, processors=processors)
        wanted = parts_wanted(40, processors)

        assert max(found) <= parts_for(count, 40, processors)
        assert sum(found) <= count + wanted


@pytest.mark.parametrize("parts", [2, 3, 6, 7, 13, 14, 31, 32])
def test_the_parts_of_a_sequence_of_any_length_hold_all_of_its_keys(parts: int) -> None:
    extent = replace(EXTENT, parts=parts, parts_wanted=parts)
    for length in range(1, 2000):
        for first, tokens in ((length - 1, 1), (0, length)):
            [keys] = part_keys([Tile(0, 0, tokens, first)], extent)
            assert parts * keys >= length


@pytest.mark.parametrize(
    ("dim", "dtype", "queries", "keys"),
    [
        (128, torch.float16, 64, 32),
        (80, torch.bfloat16, 64, 32),
        (256, torch.bfloat16, 32, 16),
        (64, torch.float32, 16, 16),
        (128, torch.float32, 16, 16),
        (256, torch.float32, 16, 16),
    ],
    ids=str,
)
def test_wide_heads_and_wide_numbers_have_small_tiles(
    dim: int, dtype: torch.dtype, queries: int, keys: int
) -> None:
    assert (prompt_queries(dim, dtype), block_keys(dim, dtype)) == (queries, keys)


def test_two_blocks_are_under_way_where_four_programs_still_fit() -> None:
    ampere_consumer, a100, hopper = 100 * 1024, 164 * 1024, 228 * 1024
    cards = (ampere_consumer, a100, hopper)
    assert [stages_for(card, 128, torch.float16) for card in cards] == [2, 3, 3]
    assert [stages_for(card, 64, torch.float16) for card in cards] == [3, 3, 3]


def test_a_page_table_is_for_the_context_or_for_all_pages_there_are() -> None:
    assert pages_each(4096, 10_000) == 257
    assert pages_each(4096, 12) == 12
