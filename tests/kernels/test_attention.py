"""Attention over pages against softmax(q k) v written out in fp64, whatever the shapes, the order
of the pages and the cut into tiles and parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import (
    DECODE_QUERIES,
    PROMPT_QUERIES,
    Extent,
    FrameTable,
    empty_table,
    tile_queries,
    tiles_of,
)
from edgeserve.model.kernels import attention
from edgeserve.model.kernels.attention import Cache, attend

pytestmark = pytest.mark.slow  # in the interpreter
PAGES = 14
ATOL = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Of values with a spread of 1: the rounding of weights and results to the dtype."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    dim: int = 64
    window: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the work is cut, and how many rows of padding there are."""

    queries: int = DECODE_QUERIES
    parts: int = 1
    spare: int = 0
    wanted: int = 0
    """Parts of all sequences together; none said is as many as one may have."""


def made_up(shape: Shape, device: torch.device) -> Cache:
    """Every slot holds numbers, those of other sequences too."""
    random = torch.Generator().manual_seed(5)
    size = (2, PAGES * PAGE_TOKENS, shape.kv_heads, shape.dim)
    both = torch.randn(size, generator=random).to(device, shape.dtype)
    return Cache(keys_PKH=both[0], values_PKH=both[1], window_tokens=shape.window)


def table_for(
    segments: list[PagedSegment], shape: Shape, cut: Cut, device: torch.device
) -> FrameTable:
    tokens = sum(each.tokens for each in segments)
    queries = tile_queries(shape.group, cut.queries)
    tiles = tiles_of(segments, queries // shape.group)
    extent = Extent(
        rows=tokens + cut.spare, asked=0, tiles=len(tiles) + cut.spare, tile_queries=queries,
        parts=cut.parts, segments=len(segments), pages_each=PAGES,
        parts_wanted=cut.wanted or cut.parts, window_tokens=shape.window,
    )  # fmt: skip
    filled, table = empty_table(extent, "cpu"), empty_table(extent, device)
    filled.pages_SW.fill_(2**20)  # what is not in a page table must not be looked up
    filled.fill(segments, [], tiles)
    table.flat.copy_(filled.flat)
    return table


def expected(
    q_TNH: Tensor, cache: Cache, segments: list[PagedSegment], window: int | None
) -> Tensor:
    """By the definition, token by token."""
    found, row = [], 0
    for each in segments:
        for position in range(each.first_position, each.end_position):
            start = 0 if window is None else max(0, position - window + 1)
            slots = list(each.slots(start, position + 1))
            group = q_TNH.shape[1] // cache.keys_PKH.shape[1]
            keys_SNH = cache.keys_PKH[slots].double().repeat_interleave(group, dim=1)
            values_SNH = cache.values_PKH[slots].double().repeat_interleave(group, dim=1)
            scores = torch.einsum("nh,snh->ns", q_TNH[row].double(), keys_SNH)
            weights = (scores * q_TNH.shape[-1] ** -0.5).softmax(dim=-1)
            found.append(torch.einsum("ns,snh->nh", weights, values_SNH).flatten())
            row += 1
    return torch.stack(found)


def assert_attends(
    segments: list[PagedSegment], shape: Shape, cut: Cut, device: torch.device
) -> None:
    cache, table = made_up(shape, device), table_for(segments, shape, cut, device)
    random = torch.Generator().manual_seed(6)
    tokens = sum(each.tokens for each in segments)
    # Queries are a view of a wider row, as they are of the product of queries, keys and values.
    wide = torch.randn(tokens + cut.spare, shape.heads + 3, shape.dim, generator=random)
    q_TNH = wide.to(device, shape.dtype)[:, : shape.heads]

    found = attend(q_TNH, cache, table)

    assert found.dtype == shape.dtype
    want = expected(q_TNH, cache, segments, shape.window)
    torch.testing.assert_close(found[:tokens].double(), want, atol=ATOL[shape.dtype], rtol=0)


def decode(*lengths: int) -> list[PagedSegment]:
    """One token for each sequence of so many tokens so far; the pages are strewn."""
    free = [11, 3, 7, 0, 12, 5, 9, 1, 13, 4, 8, 2, 10, 6]
    segments = []
    for length in lengths:
        count = -(-length // PAGE_TOKENS)
        pages, free = tuple(free[:count]), free[count:]
        segments.append(PagedSegment(pages, length - 1, 1))
    return segments


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 16, 17, 31, 32, 33, 64, 100])
def test_a_token_sees_all_before_it_however_the_keys_are_cut(
    length: int, parts: int, device: torch.device
) -> None:
    assert_attends(decode(length), Shape(), Cut(parts=parts), device)


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 5, 6, 7, 8])
def test_any_number_of_query_heads_share_a_key(heads: int, device: torch.device) -> None:
    shape = Shape(heads=2 * heads, kv_heads=2, dim=16)

    assert_attends(decode(40, 3), shape, Cut(parts=2), device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [12, 64, 80, 128])
def test_heads_may_have_any_width(dim: int, dtype: torch.dtype, device: torch.device) -> None:
    if dtype is torch.bfloat16 and device.type == "cpu":
        pytest.skip("Triton's interpreter multiplies the bits of bf16, not its numbers")

    assert_attends(decode(50), Shape(dim=dim, dtype=dtype), Cut(parts=2), device)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("window", [1, 5, 16, 33, 200])
def test_a_window_hides_what_is_before_it(window: int, parts: int, device: torch.device) -> None:
    segments = [*decode(70, 4), PagedSegment((6, 10), 13, 9)]

    assert_attends(segments, Shape(dim=16, window=window), Cut(parts=parts), device)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what lay in their memory
@pytest.mark.parametrize("lengths", [(100, 5, 33), (1, 100), (64, 65, 7)], ids=str)
@pytest.mark.parametrize("wanted", [1, 2, 5, 9])
def test_sequences_beside_one_another_have_as_many_parts_as_they_need(
    lengths: tuple[int, ...], wanted: int, device: torch.device
) -> None:
    assert_attends(decode(*lengths), Shape(), Cut(parts=4, wanted=wanted, spare=2), device)


def test_one_part_is_written_as_it_is_and_several_are_joined(
    monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    joined: list[Any] = []
    real = attention._join_parts

    class Noted:
        def __getitem__(self, grid: Any) -> Any:
            joined.append(grid)
            return real[grid]

    monkeypatch.setattr(attention, "_join_parts", Noted())
    assert_attends(decode(70, 3), Shape(dim=16), Cut(parts=1), device)
    assert joined == []

    assert_attends(decode(70, 3), Shape(dim=16), Cut(parts=3), device)
    assert joined == [(2, 4)]


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("tokens", [2, 5, 9, 17])
def test_guessed_tokens_see_those_before_them_and_not_those_after(
    tokens: int, parts: int, device: torch.device
) -> None:
    segments = [PagedSegment((9, 2, 7, 4), 38, tokens), *decode(20)]

    assert_attends(segments, Shape(heads=6, kv_heads=2, dim=16), Cut(parts=parts), device)


@pytest.mark.parametrize("first", [0, 5, 32])
def test_a_chunk_of_a_prompt_sees_itself_and_what_came_before(
    first: int, device: torch.device
) -> None:
    segments = [PagedSegment((9, 2, 7, 4, 0, 13), first, 60), PagedSegment((3,), 0, 7)]

    assert_attends(segments, Shape(dim=16), Cut(queries=PROMPT_QUERIES), device)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of what lay in their memory
@pytest.mark.parametrize("parts", [1, 2])
def test_rows_of_padding_change_nothing(parts: int, device: torch.device) -> None:
    assert_attends(decode(20, 33, 1), Shape(), Cut(parts=parts, spare=5), device)


def test_what_another_sequence_left_does_not_leak(device: torch.device) -> None:
    """Behind the last token and in other pages may be anything, even what is no number."""
    shape, segments = Shape(dim=16), decode(20)
    cache, table = made_up(shape, device), table_for(segments, shape, Cut(), device)
    q_TNH = torch.ones((1, 4, 16), device=device)
    want = attend(q_TNH, cache, table)
    own = list(segments[0].slots(0, 20))
    for left in (cache.keys_PKH, cache.values_PKH):
        kept = left[own]
        left.fill_(torch.nan)
        left[own] = kept

    assert torch.equal(attend(q_TNH, cache, table), want)
    assert want.isfinite().all()
