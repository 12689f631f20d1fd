"""What happened on a GPU that is not there, in order: operators, launches, memory taken and given
back. `MetaDevice` writes it down, the tests and the allocator's model read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch


class Phase(StrEnum):
    """What the worker is doing. It also says which stream and which pool memory comes from."""

    LOAD = "load"
    """Weights and what else a slice holds; default stream."""
    PAGES = "pages"
    """Keys and values; default stream."""
    INPUTS = "inputs"
    """Between recordings: what the next graph reads from and writes to; default stream."""
    WARM_UP = "warm-up"
    """The work of a graph before it is recorded; the recorder's stream, ordinary memory."""
    GRAPH = "graph"
    """The recording itself; the recorder's stream, the graphs' pool."""
    LONGEST = "longest frame"
    """Behind the last recording; default stream."""
    FRAME = "frame"
    """After load; default stream. A replayed graph takes no memory."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A tensor as an operator or a launch saw it."""

    storage: int
    """The same number for all views of one piece of memory, until it is freed."""
    device: str
    """`meta` is the GPU."""
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset_bytes: int
    """From the beginning of the storage, which an allocator aligns to 512."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A call of one of PyTorch's operators, composite ones taken apart."""

    phase: Phase
    name: str
    """Such as `aten.mm.default`."""
    inputs: tuple[Seen, ...]
    outputs: tuple[Seen, ...]
    is_view: bool

    @property
    def tensors(self) -> tuple[Seen, ...]:
        return self.inputs + self.outputs


@dataclass(frozen=True, slots=True)
class Pointer:
    """A tensor that a kernel is given."""

    tensor: Seen

    @property
    def address(self) -> int:
        """Of a piece of memory that begins at 512: never 0, which Triton takes for no tensor."""
        return 512 + self.tensor.offset_bytes


Argument = Pointer | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Launch:
    """A Triton kernel, started."""

    phase: Phase
    kernel: str
    """`module:name`."""
    grid: tuple[int, ...]
    arguments: dict[str, Argument]
    """By the kernel's own names, constants included."""
    options: dict[str, int | bool]
    """Such as `num_warps`."""

    @property
    def name(self) -> str:
        return self.kernel.rpartition(":")[2]

    @property
    def tensors(self) -> tuple[Seen, ...]:
        return tuple(each.tensor for each in self.arguments.values() if isinstance(each, Pointer))


@dataclass(frozen=True, slots=True)
class Allocated:
    """Memory of the device was taken."""

    phase: Phase
    storage: int
    bytes: int
    operator: str


@dataclass(frozen=True, slots=True)
class Freed:
    """The last tensor in it is gone."""

    phase: Phase
    storage: int


Event = Operator | Launch | Allocated | Freed
