"""Sequences computed together find what each finds alone with PyTorch's own attention."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from edgeserve.model.attention import attend
from edgeserve.model.batch import Group, PackedBatch, PagedSegment

KV_HEADS, SHARE, DIM = 2, 3, 8
PAGES = 160


@st.composite
def segments(draw: st.DrawFn) -> list[PagedSegment]:
    """Up to six sequences with pages of their own: in order, or all over the place."""
    numbers = list(range(PAGES))
    if draw(st.booleans()):
        numbers = draw(st.permutations(numbers))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        tokens = draw(st.sampled_from([1, 1, 1, 2, 5, 9, 16, 17, 40]))
        first = draw(st.one_of(st.just(0), st.integers(0, 70), st.just(520)))
        room = (first + tokens - 1) // 16 + 1
        if room > len(numbers):
            break
        pages, numbers = tuple(numbers[:room]), numbers[room:]
        found.append(PagedSegment(pages, first, tokens))
    return found


def case(
    fed: list[PagedSegment], window: int | None
) -> tuple[PackedBatch, tuple[Tensor, Tensor, Tensor]]:
    """A batch, and queries, keys and values; what none of the sequences reads is NaN."""
    batch = PackedBatch.build(fed, "cpu")
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(batch.tokens, KV_HEADS * SHARE, DIM, generator=generator)
    keys, values = torch.randn(2, PAGES * 16, KV_HEADS, DIM, generator=generator)
    unread = torch.ones(len(keys), dtype=torch.bool)
    for read in batch.reads(window):
        unread[read.slots] = False
    keys[unread] = values[unread] = torch.nan
    return batch, (q, keys, values)


@settings(deadline=None, max_examples=60)
@given(fed=segments(), window=st.one_of(st.none(), st.integers(1, 60)))
def test_together_or_alone_tokens_find_the_same(
    fed: list[PagedSegment], window: int | None
) -> None:
    batch, tensors = case(fed, window)
    alone = attend(*tensors, batch.reads(window))
    together = attend(*tensors, batch.groups(window, torch.float32))
    assert not alone.isnan().any(), "the reference reads what is not its own"
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


def test_nothing_is_copied_but_what_is_read() -> None:
    """A worker's pages fill its memory: a copy of them all takes longer than the whole step."""
    fed = [PagedSegment((40 + 3 * i, 8 * i), 20, 1) for i in range(4)]
    batch, tensors = case(fed, None)
    groups = batch.groups(None, torch.float32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        attend(*tensors, groups)
    copied = sum(max(0, each.self_cpu_memory_usage) for each in watched.key_averages())
    assert 0 < copied < tensors[1].nbytes / 2


def test_decodes_of_similar_length_are_one_computation() -> None:
    fed = [PagedSegment((2 * i, 2 * i + 1), 20 + i, 1) for i in range(8)]
    [group] = PackedBatch.build(fed, "cpu").groups(None, torch.float32)
    assert isinstance(group, Group)
    assert (group.segments, group.rows) == (8, slice(0, 8))


def test_a_sequence_alone_is_read_where_it_lies() -> None:
    long = [PagedSegment(tuple(range(at, at + 40)), 600, 1) for at in (8, 48)]
    guesses = PagedSegment((2, 3), 20, 3)
    reads = PackedBatch.build([guesses, *long, PagedSegment((4,), 0, 9)], "cpu").groups(
        None, torch.float32
    )
    # Long ones are not copied, whoever else decodes. Only what needs a mask is ours to compute.
    assert [each.slots for each in reads] == [
        slice(32, 55), slice(128, 729), slice(768, 1369), slice(64, 73),
    ]  # fmt: skip
    assert [isinstance(each, Group) for each in reads] == [True, False, False, False]


def test_a_group_copies_no_more_keys_than_it_may() -> None:
    fed = [PagedSegment(tuple(range(40 * i, 40 * i + 40)), 400 + i, 1) for i in range(20)]
    groups = PackedBatch.build(fed, "cpu").groups(None, torch.float32)
    assert [each.segments for each in groups if isinstance(each, Group)] == [16, 4]
    #       16 x 512 keys are what may be copied at once


def test_a_group_costs_at_most_twice_its_keys() -> None:
    fed = [PagedSegment(tuple(range(20 * i, 20 * i + 20)), 35 * i, 1) for i in range(8)]
    for group in PackedBatch.build(fed, "cpu").groups(None, torch.float32):
        if isinstance(group, Group) and group.mask_BTS is not None:
            seen = (group.mask_BTS == 0).sum()
            assert seen * 2 > group.mask_BTS.numel()
