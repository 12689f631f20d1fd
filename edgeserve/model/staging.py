"""Brings rows of a tensor from a file to a parameter.

On a CPU they are read in place, or through one buffer if they have another dtype there. To a GPU
they go through two pinned buffers in turn: the next block is read from the file while the last one
is copied, and nobody waits for the device but for a buffer to be free again. From ordinary memory a
copy runs at half the speed of PCIe, and each waits for all before it. Numbers of another dtype are
converted on the CPU, so that the device needs no memory beside the slice.

Whether fp16 holds all numbers is found out on the device behind each copy, and asked once, at the
end: an answer in between would be one more wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from edgeserve.errors import BadModel
from edgeserve.families.checkpoint import StoredTensor

STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Of each of `stage_files.ITEM_BYTES`."""

Wait = Callable[[], None]


class Reader(Protocol):
    """The bytes of a stored tensor, from its start on."""

    stored: StoredTensor

    def read(self, into: Tensor, /) -> None: ...


class Staging(Protocol):
    block_bytes: int
    """The most that `read` may be asked for at once, in the file and in the parameter."""

    def read(self, reader: Reader, rows: Tensor) -> None: ...

    def finish(self) -> None:
        """Returns when all rows are where they belong. Raises BadModel for numbers that fp16
        cannot hold, unless `read` has.
        """
        ...


def staging_to(device: torch.device | str, block_bytes: int) -> Staging:
    if torch.device(device).type == "cuda":
        return PinnedStaging(block_bytes, CudaTransfer())
    return HostStaging(block_bytes)


class HostStaging:
    """To a CPU."""

    def __init__(self, block_bytes: int) -> None:
        self.block_bytes = block_bytes
        self._buffer: Tensor | None = None

    def read(self, reader: Reader, rows: Tensor) -> None:
        dtype = STORED[reader.stored.dtype]
        if rows.device.type == "cpu" and rows.dtype is dtype:
            reader.read(rows)
            return
        self._buffer = landed = _room(self._buffer, rows.numel() * dtype.itemsize, self.block_bytes)
        landed = _as(landed, rows, dtype)
        reader.read(landed)
        rows.copy_(landed)
        if rows.dtype is torch.float16 and not all(map(math.isfinite, rows.aminmax())):
            raise _too_large(reader.stored)

    def finish(self) -> None:
        """Nothing is under way."""


class Transfer(Protocol):
    """What a device has for copies that nobody waits for."""

    def buffer(self, size_bytes: int) -> Tensor:
        """Memory of the host that the device reads by itself, of bytes."""
        ...

    def begin(self, work: Callable[[], None]) -> Wait:
        """`work` is done on the device, behind what was begun before; how to wait for it."""
        ...


class CudaTransfer:
    """On the current stream: what computes with the rows later comes behind them by itself."""

    def buffer(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def begin(self, work: Callable[[], None]) -> Wait:
        work()
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record()
        return done.synchronize


class PinnedStaging:
    """To a GPU. Twice `block_bytes` are pinned until `finish`; what PyTorch then keeps of them for
    the next who asks goes back to the system when graphs are recorded.
    """

    def __init__(self, block_bytes: int, transfer: Transfer) -> None:
        self.block_bytes = block_bytes
        self._transfer = transfer
        self._free: tuple[_Pinned, _Pinned] = (_Pinned(), _Pinned())
        self._raw: Tensor | None = None
        self._extremes: list[tuple[StoredTensor, Tensor]] = []

    def read(self, reader: Reader, rows: Tensor) -> None:
        oldest, other = self._free
        oldest.wait()
        if oldest.memory is None or oldest.memory.nbytes < rows.nbytes:
            oldest.memory = self._transfer.buffer(max(rows.nbytes, self.block_bytes))
        landed = _as(oldest.memory, rows, rows.dtype)
        self._read_as(landed, reader)
        oldest.wait = self._transfer.begin(lambda: self._copy(landed, rows, reader.stored))
        self._free = (other, oldest)

    def finish(self) -> None:
        for each in self._free:
            each.wait()
        self._free, self._raw = (_Pinned(), _Pinned()), None
        if not self._extremes:
            return
        extremes, self._extremes = self._extremes, []
        fine = torch.stack([each for _, each in extremes]).isfinite().all(dim=1).tolist()
        if not all(fine):
            raise _too_large(extremes[fine.index(False)][0])

    def _read_as(self, landed: Tensor, reader: Reader) -> None:
        dtype = STORED[reader.stored.dtype]
        if landed.dtype is dtype:
            reader.read(landed)
            return
        self._raw = raw = _room(self._raw, landed.numel() * dtype.itemsize, self.block_bytes)
        raw = _as(raw, landed, dtype)
        reader.read(raw)
        landed.copy_(raw)

    def _copy(self, landed: Tensor, rows: Tensor, stored: StoredTensor) -> None:
        rows.copy_(landed, non_blocking=True)
        if rows.dtype is torch.float16:
            self._extremes.append((stored, torch.stack(rows.aminmax())))


class _Pinned:
    """A buffer, and how to wait until nothing reads it any more."""

    def __init__(self) -> None:
        self.memory: Tensor | None = None
        self.wait: Wait = lambda: None


def _room(buffer: Tensor | None, size_bytes: int, block_bytes: int) -> Tensor:
    if buffer is None or buffer.nbytes < size_bytes:
        return torch.empty(max(size_bytes, block_bytes), dtype=torch.uint8)
    return buffer


def _as(buffer: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Its beginning, in the shape of `rows`."""
    return buffer[: rows.numel() * dtype.itemsize].view(dtype).view(rows.shape)


def _too_large(stored: StoredTensor) -> BadModel:
    """fp16 ends at 65504, where bf16 and fp32 go on: beyond it every answer would be NaN."""
    return BadModel(
        f"tensor {stored.name} in {stored.path} has numbers that fp16 cannot hold; "
        "serve the model with --dtype bf16"
    )
