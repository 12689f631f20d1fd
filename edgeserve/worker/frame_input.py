"""All that a frame brings to a device, in one piece of memory: one copy takes it there.

The table comes first and the input behind it, so that of a graph with more rows than the frame only
what the frame has is copied.

    [ table: rows, page tables | padding to 16 bytes | input, row by row ]

Knows no device but by its name, and launches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeserve.model.frame_table import Extent, FrameTable

ALIGNED_BYTES = 16
"""Triton compiles a kernel anew for a pointer that is no multiple of it, and reads 4 bytes at a
time where 16 would do."""


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """One row of a stage's input: a token id, or hidden states."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class FrameInput:
    """`table` and `x` are views of `flat`."""

    flat: Tensor
    table: FrameTable
    x: Tensor
    """Token ids [T], or hidden states [T, D]."""

    @classmethod
    def empty(
        cls, extent: Extent, row: InputRow, device: torch.device | str, *, pinned: bool = False
    ) -> FrameInput:
        """Memory, not yet numbers."""
        behind = _input_offset(extent)
        size = behind + extent.rows * row.bytes
        flat = torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
        table = flat[: extent.numbers * torch.int32.itemsize].view(torch.int32)
        return cls(
            flat=flat,
            table=FrameTable.over(table, extent),
            x=flat[behind:].view(row.dtype).view(extent.rows, *row.shape),
        )

    def clear(self) -> None:
        """Padding only: no slot is written, no page table looked at."""
        self.table.clear()
        self.x.zero_()

    def copy_in(self, source: FrameInput, rows: int) -> None:
        """The first `rows` rows of the input and the whole table, in one copy; it waits for nothing
        if `source` is pinned.
        """
        end = _input_offset(self.table.extent) + rows * self.x[:1].nbytes
        self.flat[:end].copy_(source.flat[:end], non_blocking=True)


def _input_offset(extent: Extent) -> int:
    table_bytes = extent.numbers * torch.int32.itemsize
    return -(-table_bytes // ALIGNED_BYTES) * ALIGNED_BYTES
