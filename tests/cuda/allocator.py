"""A model of PyTorch's caching allocator for GPUs: which memory it takes of the card, and when that
is too much.

The rules are those of c10/cuda/CUDACachingAllocator.cpp in PyTorch 2.13 with its default settings
(no expandable segments, no largest size to split); the functions that they are from are named
beside them. The constants are in c10/core/AllocatorConfig.h, which PyTorch's wheels bring along.

Segments are what cudaMalloc gives; blocks are their parts. A block serves one pool (the default
one, or the private one of CUDA graphs), one stream and one class of sizes, small or large.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

MIN_BLOCK = 512
SMALL_SIZE = 2**20
SMALL_BUFFER = 2 * 2**20
LARGE_BUFFER = 20 * 2**20
MIN_LARGE_ALLOC = 10 * 2**20
ROUND_LARGE = 2 * 2**20
DEFAULT_POOL = "default"


class OutOfMemory(Exception):
    """What PyTorch raises as torch.OutOfMemoryError."""


@dataclass(eq=False)
class Segment:
    kind: tuple[str, int, bool]
    size: int


@dataclass(eq=False)
class Block:
    """In its segment between `before` and `after`."""

    segment: Segment
    size: int
    is_free: bool = True
    before: Block | None = None
    after: Block | None = None

    @property
    def is_whole_segment(self) -> bool:
        return self.before is None and self.after is None


@dataclass(eq=False)
class _FreeBlocks:
    """Of one pool, stream and class, the smallest first; equal ones in the order of their freeing.

    PyTorch takes the one at the lowest address of equal ones. Addresses are the driver's choice, so
    no model has them.
    """

    sizes: list[int] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)

    def add(self, block: Block) -> None:
        at = bisect.bisect_right(self.sizes, block.size)
        self.sizes.insert(at, block.size)
        self.blocks.insert(at, block)

    def remove(self, block: Block) -> None:
        at = bisect.bisect_left(self.sizes, block.size)
        while self.blocks[at] is not block:
            at += 1
        del self.sizes[at], self.blocks[at]

    def take(self, size: int) -> Block | None:
        """The smallest that is large enough."""
        at = bisect.bisect_left(self.sizes, size)
        if at == len(self.sizes):
            return None
        del self.sizes[at]
        return self.blocks.pop(at)


class CachingAllocator:
    """`limit_bytes` is what set_per_process_memory_fraction allows, or all that the card has free.

    `pool` and `stream` say for whom memory is taken; `capturing` is true while a graph is recorded.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.pool, self.stream, self.capturing = DEFAULT_POOL, 0, False
        self.reserved_bytes = self.reserved_peak_bytes = 0
        self.live_bytes = self.live_peak_bytes = 0
        self.reserved_by_pool = Counter[str]()
        self._free: dict[tuple[str, int, bool], _FreeBlocks] = {}
        self._workspaces: dict[Hashable, Block | None] = {}

    def allocate(self, size: int) -> Block | None:
        """None for a tensor without numbers. Raises OutOfMemory."""
        if size == 0:
            return None
        size = round_size(size)
        kind = (self.pool, self.stream, size <= SMALL_SIZE)
        block = self._free_blocks(kind).take(size) or self._new_segment(kind, size)
        block.is_free = False
        self._split(block, size)
        self.live_bytes += block.size
        self.live_peak_bytes = max(self.live_peak_bytes, self.live_bytes)
        return block

    def free(self, block: Block | None) -> None:
        """It goes back to where it is from, whatever pool and stream are set now (`free_block`)."""
        if block is None:
            return
        self.live_bytes -= block.size
        block.is_free = True
        self._absorb(block, block.before)
        self._absorb(block, block.after)
        self._free_blocks(block.segment.kind).add(block)

    def empty_cache(self) -> None:
        """Gives back segments of which nothing is in use; never those of a private pool whose
        graphs exist (`release_cached_blocks`).
        """
        for kind, free in self._free.items():
            if kind[0] == DEFAULT_POOL:
                for block in [each for each in free.blocks if each.is_whole_segment]:
                    free.remove(block)
                    self.reserved_bytes -= block.size
                    self.reserved_by_pool[DEFAULT_POOL] -= block.size

    def workspace(self, handle: Hashable, size: int) -> None:
        """What cuBLAS is given once for each handle (a thread has one) and stream, and keeps
        (`getCurrentCUDABlasHandle` in aten/src/ATen/cuda/CublasHandlePool.cpp).
        """
        key = (handle, self.stream)
        if key not in self._workspaces:
            self._workspaces[key] = self.allocate(size)

    def _free_blocks(self, kind: tuple[str, int, bool]) -> _FreeBlocks:
        return self._free.setdefault(kind, _FreeBlocks())

    def _new_segment(self, kind: tuple[str, int, bool], size: int) -> Block:
        """`malloc`: tries cudaMalloc, then again without what is cached; not while it records."""
        segment_size = segment_bytes(size)
        if self.reserved_bytes + segment_size > self.limit_bytes and not self.capturing:
            self.empty_cache()
        if self.reserved_bytes + segment_size > self.limit_bytes:
            raise OutOfMemory(
                f"wants {segment_size / 1e6:.1f} MB for {size / 1e6:.1f} MB; of "
                f"{self.limit_bytes / 1e6:.1f} MB, {self.reserved_bytes / 1e6:.1f} MB are taken "
                f"and {self.live_bytes / 1e6:.1f} MB in use"
            )
        self.reserved_bytes += segment_size
        self.reserved_by_pool[self.pool] += segment_size
        self.reserved_peak_bytes = max(self.reserved_peak_bytes, self.reserved_bytes)
        return Block(Segment(kind, segment_size), segment_size)

    def _split(self, block: Block, size: int) -> None:
        """`should_split` and `alloc_found_block`: the rest becomes a free block if it is of use."""
        rest = block.size - size
        is_small = block.segment.kind[2]
        if rest < MIN_BLOCK if is_small else rest <= SMALL_SIZE:
            return
        after = Block(block.segment, rest, before=block, after=block.after)
        if block.after is not None:
            block.after.before = after
        block.size, block.after = size, after
        self._free_blocks(block.segment.kind).add(after)

    def _absorb(self, block: Block, neighbour: Block | None) -> None:
        """`try_merge_blocks`."""
        if neighbour is None or not neighbour.is_free:
            return
        self._free_blocks(block.segment.kind).remove(neighbour)
        block.size += neighbour.size
        if neighbour is block.before:
            block.before, beyond = neighbour.before, neighbour.before
            if beyond is not None:
                beyond.after = block
        else:
            block.after, beyond = neighbour.after, neighbour.after
            if beyond is not None:
                beyond.before = block


def round_size(size: int) -> int:
    """`round_size`: whole blocks of 512 bytes."""
    return max(1, -(-size // MIN_BLOCK)) * MIN_BLOCK


def segment_bytes(size: int) -> int:
    """`get_allocation_size`: what is asked of cudaMalloc for a rounded size."""
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOC:
        return LARGE_BUFFER
    return -(-size // ROUND_LARGE) * ROUND_LARGE
