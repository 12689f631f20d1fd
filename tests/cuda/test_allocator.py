"""The model of PyTorch's caching allocator keeps the rules that `allocator.py` names."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch

from tests.cuda import allocator
from tests.cuda.allocator import Block, CachingAllocator, OutOfMemory, round_size, segment_bytes

KIB, MIB = 2**10, 2**20
ROOMY = 2**40


def test_the_constants_are_those_of_the_installed_pytorch() -> None:
    header = Path(torch.__file__).parent / "include/c10/core/AllocatorConfig.h"
    found = dict(re.findall(r"constexpr size_t (k\w+) = (\d+);", header.read_text()))
    assert int(found["kMinBlockSize"]) == allocator.MIN_BLOCK
    assert int(found["kSmallSize"]) == allocator.SMALL_SIZE
    assert int(found["kSmallBuffer"]) == allocator.SMALL_BUFFER
    assert int(found["kMinLargeAlloc"]) == allocator.MIN_LARGE_ALLOC
    assert int(found["kRoundLarge"]) == allocator.ROUND_LARGE


@pytest.mark.parametrize(
    ("size", "rounded"), [(1, 512), (512, 512), (513, 1024), (MIB + 1, MIB + 512)]
)
def test_sizes_are_rounded_to_512_bytes(size: int, rounded: int) -> None:
    assert round_size(size) == rounded


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (512, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 512, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 512, 12 * MIB),
    ],
)
def test_segments_are_of_2_or_20_mib_or_in_steps_of_2(size: int, segment: int) -> None:
    assert segment_bytes(size) == segment
    memory = CachingAllocator(ROOMY)
    memory.allocate(size)
    assert memory.reserved_bytes == segment


def test_small_and_large_do_not_share_a_segment() -> None:
    memory = CachingAllocator(ROOMY)
    memory.allocate(2 * MIB)
    memory.allocate(512)
    assert memory.reserved_bytes == 22 * MIB


def test_a_large_block_is_split_only_if_more_than_1_mib_is_left() -> None:
    memory = CachingAllocator(ROOMY)
    memory.free(memory.allocate(20 * MIB))
    whole = memory.allocate(19 * MIB)
    assert whole is not None
    assert whole.size == 20 * MIB
    memory.free(whole)
    split = memory.allocate(19 * MIB - 512)
    assert split is not None
    assert split.size == 19 * MIB - 512


def test_a_small_block_is_split_down_to_512_bytes() -> None:
    memory = CachingAllocator(ROOMY)
    for _ in range(4096):
        memory.allocate(1)
    assert memory.reserved_bytes == 2 * MIB
    memory.allocate(1)
    assert memory.reserved_bytes == 4 * MIB


def test_the_smallest_block_that_is_large_enough_is_taken() -> None:
    memory = CachingAllocator(ROOMY)
    larger, smaller = memory.allocate(40 * MIB), memory.allocate(30 * MIB)
    memory.free(larger)
    memory.free(smaller)
    taken = memory.allocate(25 * MIB)
    assert taken is not None
    assert taken.segment.size == 30 * MIB


def test_neighbours_become_one_block_again() -> None:
    memory = CachingAllocator(ROOMY)
    parts = [memory.allocate(5 * MIB) for _ in range(4)]
    assert memory.reserved_bytes == 20 * MIB
    for each in (parts[0], parts[2], parts[1], parts[3]):
        memory.free(each)
    whole = memory.allocate(20 * MIB)
    assert whole is not None
    assert whole.is_whole_segment
    assert memory.reserved_bytes == 20 * MIB


def test_a_stream_does_not_use_what_another_one_has_freed() -> None:
    memory = CachingAllocator(ROOMY)
    memory.free(memory.allocate(MIB))
    memory.stream = 1
    memory.allocate(MIB)
    assert memory.reserved_bytes == 4 * MIB


def test_what_is_freed_in_another_stream_stays_its_own_stream_s() -> None:
    memory = CachingAllocator(ROOMY)
    block = memory.allocate(MIB)
    memory.stream = 1
    memory.free(block)
    memory.stream = 0
    memory.allocate(MIB)
    assert memory.reserved_bytes == 2 * MIB


def test_a_private_pool_keeps_its_segments() -> None:
    memory = CachingAllocator(ROOMY)
    memory.pool = "graphs"
    memory.free(memory.allocate(64 * MIB))
    memory.pool = allocator.DEFAULT_POOL
    memory.empty_cache()
    assert memory.reserved_bytes == 64 * MIB
    memory.allocate(64 * MIB)
    assert memory.reserved_bytes == 128 * MIB
    memory.pool = "graphs"
    memory.allocate(64 * MIB)
    assert memory.reserved_bytes == 128 * MIB


def test_cached_segments_are_given_back_before_it_is_out_of_memory() -> None:
    memory = CachingAllocator(100 * MIB)
    memory.free(memory.allocate(60 * MIB))
    memory.allocate(70 * MIB)
    assert memory.reserved_bytes == 70 * MIB


def test_not_while_a_graph_is_recorded() -> None:
    memory = CachingAllocator(100 * MIB)
    memory.free(memory.allocate(60 * MIB))
    memory.pool, memory.capturing = "graphs", True
    with pytest.raises(OutOfMemory):
        memory.allocate(70 * MIB)


def test_a_segment_of_which_a_part_is_in_use_stays() -> None:
    memory = CachingAllocator(100 * MIB)
    whole = memory.allocate(60 * MIB)
    memory.free(whole)
    memory.allocate(10 * MIB)
    memory.empty_cache()
    assert memory.reserved_bytes == 60 * MIB
    with pytest.raises(OutOfMemory, match=r"wants 54\.5 MB for 52\.4 MB"):
        memory.allocate(50 * MIB + 512)


def test_cublas_has_a_workspace_for_each_handle_and_stream() -> None:
    memory = CachingAllocator(ROOMY)
    for handle, stream in [(0, 0), (0, 0), (0, 1), (1, 0), (0, 1)]:
        memory.stream = stream
        memory.workspace(handle, 8_519_680)
    assert memory.live_bytes == 3 * 8_519_680
    # 8.1 MiB lie in segments of 20, of which a stream may have two.
    assert memory.reserved_bytes == 40 * MIB


def test_what_was_allocated_and_freed_at_random_is_whole_again() -> None:
    random_ = random.Random(0)
    memory, held = CachingAllocator(ROOMY), list[Block | None]()
    for _ in range(2000):
        if held and random_.random() < 0.5:
            memory.free(held.pop(random_.randrange(len(held))))
        else:
            memory.stream = random_.randrange(2)
            held.append(memory.allocate(int(2 ** random_.uniform(0, 27))))
        assert memory.live_bytes == sum(each.size for each in held if each)
        assert memory.live_bytes <= memory.reserved_bytes
    for each in held:
        memory.free(each)
    memory.empty_cache()
    assert (memory.live_bytes, memory.reserved_bytes) == (0, 0)
