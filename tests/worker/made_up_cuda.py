"""A card that nobody has, as `torch.cuda` would show it; a test changes what it is about."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeserve.clock import ManualClock
from edgeserve.gpu import Torch
from edgeserve.worker.cuda_device import Cuda

GB = 10**9
MIB = 2**20
CU130 = Torch(version="2.13.0+cu130", cuda="13.0")
COPY_BYTES_PER_S = 300e9
"""Of the card: bytes read plus bytes written."""


class FakeCuda(Cuda):
    """An RTX 3060 with all of its memory free. It keeps the rules of PyTorch: whoever asks for more
    than the limit or than what is free gets OutOfMemoryError, and a device that failed to come up
    answers nothing. Memory is counted and not taken; copies move the clock on.
    """

    def __init__(self, clock: ManualClock) -> None:
        self.build = CU130
        self.is_shown = True
        self.shown_name = "NVIDIA GeForce RTX 3060"
        self.shown_capability = (8, 6)
        self.free_bytes, self.total_bytes = 11_909 * MIB, 12_288 * MIB
        self.largest_bytes = self.total_bytes
        """Of one allocation: what is free need not be in one piece."""
        self.taken_bytes = 0
        """By another program, after this one has asked what is free."""
        self.failures: dict[str, Exception] = {}
        """What each method raises, by its name."""
        self.when_asked: Callable[[], object] = lambda: None
        """Called by `is_available`."""
        self.limit_share = 1.0
        self.copied: list[int] = []
        """The sizes of buffers that were had."""
        self._clock = clock
        self._held_bytes = 0
        self._copy_bytes = 0

    def is_available(self) -> bool:
        self.when_asked()
        return self.is_shown

    def init(self) -> None:
        self._perhaps_fail("init")

    def name(self) -> str:
        self._perhaps_fail("name")
        return self.shown_name

    def uuid(self) -> str:
        return "6b1c2f00-aa"

    def capability(self) -> tuple[int, int]:
        self._perhaps_fail("capability")
        return self.shown_capability

    def memory(self) -> tuple[int, int]:
        self._perhaps_fail("memory")
        return self.free_bytes, self.total_bytes

    def limit_memory(self, share: float) -> None:
        assert 0 <= share <= 1, "PyTorch raises ValueError"
        self.limit_share = share

    def zeros(self, count: int) -> torch.Tensor:
        self._perhaps_fail("zeros")
        held_bytes = self._held_bytes + count
        room_bytes = min(self.limit_share * self.total_bytes, self.free_bytes - self.taken_bytes)
        if held_bytes > room_bytes or count > self.largest_bytes:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {count} B")
        self._held_bytes, self._copy_bytes = held_bytes, count
        self.copied.append(count)
        return torch.zeros(1, dtype=torch.uint8)

    def synchronize(self) -> None:
        self._perhaps_fail("synchronize")
        self._clock.advance(2 * self._copy_bytes / COPY_BYTES_PER_S)

    def empty_cache(self) -> None:
        self._held_bytes = 0

    def _perhaps_fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures[method]
