"""What PyTorch's caching allocator takes of a GPU for tensors of given sizes.

It asks CUDA for segments: of 2 MiB for tensors up to 1 MiB, of 20 MiB for those up to 10 MiB, and
of a multiple of 2 MiB for each larger one (c10/cuda/CUDACachingAllocator.cpp).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

MIB = 2**20
SMALL, MEDIUM = MIB, 10 * MIB
"""Tensors up to the first share small segments, those below the second share medium ones."""
SMALL_SEGMENT, MEDIUM_SEGMENT, STEP = 2 * MIB, 20 * MIB, 2 * MIB
BLOCK = 512
"""Sizes are rounded up to a multiple of it."""


def segments_bytes(counts: Mapping[int, int]) -> int:
    """Of tensors that are there at once, by their bytes."""
    small = sum(rounded(size) * count for size, count in counts.items() if size <= SMALL)
    return (
        _up(small, SMALL_SEGMENT)
        + _medium_bytes({size: n for size, n in counts.items() if SMALL < size < MEDIUM})
        + sum(_up(size, STEP) * n for size, n in counts.items() if size >= MEDIUM)
    )


def packed_bytes(sizes: Iterable[int]) -> int:
    """Of a few tensors that are there at once: medium ones share segments, the largest first."""
    sizes = sorted(sizes, reverse=True)
    rooms = list[int]()
    for size in (rounded(each) for each in sizes if SMALL < each < MEDIUM):
        at = next((at for at, room in enumerate(rooms) if room >= size), None)
        if at is None:
            rooms.append(MEDIUM_SEGMENT - size)
        else:
            rooms[at] -= size
    others = Counter(each for each in sizes if not SMALL < each < MEDIUM)
    return len(rooms) * MEDIUM_SEGMENT + segments_bytes(others)


def rounded(size: int) -> int:
    return _up(size, BLOCK)


def _medium_bytes(counts: Mapping[int, int]) -> int:
    """The less of two bounds: each size has segments of its own; or they are mixed, and a segment
    is full when the largest does not fit any more.
    """
    if not counts:
        return 0
    apart = sum(math.ceil(n / (MEDIUM_SEGMENT // rounded(size))) for size, n in counts.items())
    total = sum(rounded(size) * n for size, n in counts.items())
    return min(apart, math.ceil(total / (MEDIUM_SEGMENT - rounded(max(counts))))) * MEDIUM_SEGMENT


def _up(size: int, step: int) -> int:
    return math.ceil(size / step) * step
