"""Which way of multiplying is fastest on this CPU: found out by trying, when a slice is loaded.

Processors differ more than any rule knows: one with matrix instructions reads a plain row-by-row
matrix as fast as memory allows for a single token, another needs twice the time of oneDNN's own
layout. So the first product of each shape is tried in every layout, for 1, 8 and 64 tokens, and all
products of that shape get the best. One layout serves all batch sizes, so no weight is held twice.
Refuses to know spec and stage.

    T tokens, R rows and C columns of the matrix
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.clock import Timekeeper
from edgeserve.model.product import Kernel, MakeKernel, Product

SMALL_BYTES = 4 * 2**20
"""Weights below stay in a core's cache, where every layout is fast: they are left as they are."""
ROTATED_BYTES = 96 * 2**20
"""Tried on copies of so many bytes in turn, three times a cache of 32 MB: in the cache every layout
would seem fast. With their packed form within the 600 MB that a worker may take beside its slice.
"""
TRIED_TOKENS = (1, 8, 64)  # a decode, a batch, a piece of a prompt
WORTH = 1.15  # another layout than the first has to be so many times faster: neighbours make noise
TRIES = 2  # the faster counts: the first may have to warm up
BUDGET_S = 6.0
"""After that the remaining shapes get what most others got. 5 shapes take a third of it on two
quiet cores."""
PACKED_FOR_TOKENS = 16
"""oneDNN chooses its layout for a number of tokens. Packed for 1, 16 or 256, all batch sizes take
the same time to within 10 %, but for the first use of 256."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a shape was given, and the milliseconds that decided."""

    layout: str
    ms: dict[str, tuple[float, ...]]
    """Of each layout, for each of TRIED_TOKENS."""


@dataclass(kw_only=True)
class FastestLayout:
    """Prepares products one after the other; trying is done once for each shape."""

    clock: Timekeeper
    """Of processor time, if other workers of the machine load at the same time."""
    layouts: dict[str, MakeKernel] = field(default_factory=lambda: LAYOUTS)
    small_bytes: int = SMALL_BYTES
    tried: dict[torch.Size, Tried] = field(default_factory=dict)
    _spent_s: float = 0.0

    def __call__(self, _name: str, product: Product) -> None:
        weight = product.weight
        has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if weight.nbytes >= self.small_bytes and has_onednn:
            product.hand_over(self.layouts[self._layout_for(weight.data)])

    def report(self) -> str:
        """For the log: 'products: 2560x2048 packed (plain 0.59 0.64 1.10, ...)'."""
        shapes = [
            f"{'x'.join(map(str, shape))} {tried.layout} "
            f"({', '.join(f'{name} {_figures(ms)}' for name, ms in tried.ms.items())})"
            for shape, tried in self.tried.items()
        ]
        tokens = ", ".join(map(str, TRIED_TOKENS))
        found = "; ".join(shapes) or "all plain"
        return f"products, in ms of processor time for {tokens} tokens: {found}"

    def _layout_for(self, weight_RC: Tensor) -> str:
        if weight_RC.shape in self.tried:
            return self.tried[weight_RC.shape].layout
        if self._spent_s > BUDGET_S:
            return Counter(each.layout for each in self.tried.values()).most_common(1)[0][0]
        start_s = self.clock.now_s()
        tried = self.tried[weight_RC.shape] = self._try(weight_RC)
        self._spent_s += self.clock.now_s() - start_s
        return tried.layout

    def _try(self, weight_RC: Tensor) -> Tried:
        copies = math.ceil(ROTATED_BYTES / weight_RC.nbytes)
        # One after the other, so that never more than one layout's copies are there.
        ms = {name: self._time(make, weight_RC, copies) for name, make in self.layouts.items()}
        mean_ms = {name: math.prod(each) ** (1 / len(each)) for name, each in ms.items()}
        first, best = next(iter(ms)), min(ms, key=lambda name: mean_ms[name])
        return Tried(layout=best if mean_ms[best] * WORTH < mean_ms[first] else first, ms=ms)

    def _time(self, make: MakeKernel, weight_RC: Tensor, copies: int) -> tuple[float, ...]:
        kernels = [make(weight_RC.clone(), None) for _ in range(copies)]
        found = []
        for tokens in TRIED_TOKENS:
            x_TC = torch.ones(tokens, weight_RC.shape[1], dtype=weight_RC.dtype)
            laps_s = [self._lap_s(kernels, x_TC) for _ in range(TRIES)]
            found.append(1e3 * min(laps_s) / copies)
        return tuple(found)

    def _lap_s(self, kernels: list[Kernel], x_TC: Tensor) -> float:
        start_s = self.clock.now_s()
        for kernel in kernels:
            kernel(x_TC)
        return self.clock.now_s() - start_s


def plain(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    return lambda x_TC: functional.linear(x_TC, weight_RC, bias_R)


def row_by_row(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """Plain, and for one token a dot product with each row."""

    def multiply(x_TC: Tensor) -> Tensor:
        if len(x_TC) != 1:
            return functional.linear(x_TC, weight_RC, bias_R)
        if bias_R is None:
            return torch.mv(weight_RC, x_TC[0])[None]
        return torch.addmv(bias_R, weight_RC, x_TC[0])[None]

    return multiply


def packed(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """In oneDNN's own blocks."""
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_RC, PACKED_FOR_TOKENS)
    multiply: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return lambda x_TC: multiply(x_TC, blocks, bias_R, "none", [], "")


LAYOUTS: dict[str, MakeKernel] = {"packed": packed, "plain": plain, "row by row": row_by_row}


def _figures(ms: tuple[float, ...]) -> str:
    return " ".join(f"{each:.2f}" for each in ms)
