"""A frame as a table of integers: everything is where kernels look, the rest does nothing."""

from __future__ import annotations

import pytest
import torch

from edgeserve.errors import WireError
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import (
    PARTS_MAX,
    Extent,
    FrameTable,
    Tile,
    pages_each,
    parts_for,
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


def test_keys_are_cut_until_every_processor_has_something_to_do() -> None:
    # An RTX 3060 has 28 processors; Llama-2 13B has 40 key heads, Llama 3 8B has 8.
    assert [parts_for(sequences, 40, 28) for sequences in (1, 2, 4)] == [3, 2, 1]
    assert parts_for(1, 8, 28) == 14
    assert parts_for(1, 1, 132) == PARTS_MAX


def test_a_page_table_is_for_the_context_or_for_all_pages_there_are() -> None:
    assert pages_each(4096, 10_000) == 257
    assert pages_each(4096, 12) == 12
