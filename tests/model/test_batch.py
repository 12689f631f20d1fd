"""Where tokens lie, and which keys each of them sees."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgeserve.model.batch import PackedBatch, PagedSegment, Read


def slots_of(read: Read, all_slots: int) -> list[int]:
    found: list[int] = torch.arange(all_slots)[read.slots].tolist()
    return found


def seen(read: Read, all_slots: int) -> list[set[int]]:
    """The slots that each token of the segment sees."""
    slots, tokens = slots_of(read, all_slots), read.rows.stop - read.rows.start
    mask: Tensor | None = read.mask_TS
    if mask is None:
        mask = torch.ones(tokens, len(slots), dtype=torch.bool)
    if read.is_causal:
        mask = mask.tril()
    return [{s for s, visible in zip(slots, row, strict=True) if visible} for row in mask.tolist()]


def test_positions_and_slots_follow_the_page_tables() -> None:
    batch = PackedBatch.build([PagedSegment((3, 0), 15, 3), PagedSegment((5,), 2, 1)], "cpu")

    assert batch.tokens == 4
    assert batch.positions_T.tolist() == [15, 16, 17, 2]
    # page 3 ends at slot 63; page 0 begins at slot 0; offset 2 of page 5
    assert batch.slots_T.tolist() == [63, 0, 1, 82]


@given(
    pages=st.permutations(range(6)),
    first=st.integers(0, 60),
    tokens=st.integers(1, 36),
    window=st.one_of(st.none(), st.integers(1, 50)),
)
def test_a_token_sees_itself_and_what_its_window_holds(
    pages: list[int], first: int, tokens: int, window: int | None
) -> None:
    batch = PackedBatch.build([PagedSegment(tuple(pages), first, tokens)], "cpu")
    [read] = batch.reads(window)

    def slot(position: int) -> int:
        return pages[position // 16] * 16 + position % 16

    wanted = [
        {slot(p) for p in range(0 if window is None else max(0, query - window + 1), query + 1)}
        for query in range(first, first + tokens)
    ]
    assert seen(read, 96) == wanted


def test_consecutive_pages_are_read_as_a_view() -> None:
    segments = [PagedSegment((7, 2, 3, 4, 9), 16, 40), PagedSegment((0, 5), 3, 20)]
    of_three_pages, of_two_parts = PackedBatch.build(segments, "cpu").reads(window_tokens=1)

    assert of_three_pages.slots == slice(32, 72)
    #                              pages 2, 3 and half of 4: the window hides page 7
    assert isinstance(of_two_parts.slots, Tensor), "page 5 does not follow page 0"
    cache = torch.zeros(160, 1, 1)
    assert cache[of_three_pages.slots].data_ptr() == cache[32].data_ptr()


def test_a_decoding_token_needs_no_mask() -> None:
    batch = PackedBatch.build([PagedSegment((1, 2), 20, 1)], "cpu")
    for window in (None, 4, 100):
        [read] = batch.reads(window)
        assert (read.mask_TS, read.is_causal) == (None, False), f"window {window}"


def test_rows_of_segments_follow_each_other() -> None:
    segments = [PagedSegment((1,), 0, 5), PagedSegment((2,), 3, 1), PagedSegment((3,), 1, 7)]
    reads = PackedBatch.build(segments, "cpu").reads(None)

    assert [each.rows for each in reads] == [slice(0, 5), slice(5, 6), slice(6, 13)]


@pytest.mark.parametrize(("first", "tokens"), [(30, 3), (-1, 2), (0, 0), (32, 1)])
def test_positions_beyond_the_pages_are_refused(first: int, tokens: int) -> None:
    with pytest.raises(ValueError, match="are not in 2 pages for 32 tokens"):
        PagedSegment((4, 5), first, tokens)
