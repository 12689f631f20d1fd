"""Which way of multiplying is fastest on this CPU: found out by trying, when a slice is loaded.

Processors differ more than any rule knows: one with matrix instructions reads a plain row-by-row
matrix as fast as memory allows for a single token, another needs twice the time of oneDNN's own
layout, and a third has no instructions for bf16 at all. So the first product of each shape is tried
in every layout, for 1, 8 and 64 tokens, and all products of that shape get the best. A layout that
cannot be made here, or whose results are wrong, drops out. One layout serves all batch sizes, so no
weight is held twice. Refuses to know spec and stage.

    T tokens, R rows and C columns of the matrix
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.clock import Timekeeper
from edgeserve.model.layouts import LAYOUTS
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
LONG_S = 0.1  # what takes longer needs no second try
BUDGET_S = 6.0
"""After that the remaining shapes get what most others got. 5 shapes take a third of it on two
quiet cores."""
CHECKED_ROWS = 256  # of each shape, evenly spread
WRONG = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Results that are off by such a share are wrong. Rounding them to bf16 makes 0.0017."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a shape was given, and the milliseconds that decided."""

    layouts: tuple[str, ...]
    """Those that work, the chosen one first and the others by their speed."""
    ms: dict[str, tuple[float, ...]]
    """Of each layout, for each of TRIED_TOKENS."""
    dropped: dict[str, str]
    """Why, of each layout that does not work."""

    @property
    def layout(self) -> str:
        """The one that was chosen."""
        return self.layouts[0] if self.layouts else "plain"

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {_figures(ms)}" for name, ms in self.ms.items())
        return f"{self.layout} ({figures or 'nothing else works'})"


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
        if product.weight.nbytes < self.small_bytes:
            return
        for layout in self._layouts_for(product.weight.data):
            try:
                product.hand_over(self.layouts[layout])
            except RuntimeError:  # this matrix is not for it, unlike the one that was tried
                continue
            return

    def finish(self) -> None:
        """Each product was prepared as soon as it was full."""

    def report(self) -> str:
        """For the log: 'products: 2560x2048 packed (plain 0.59 0.64 1.10, ...)'."""
        shapes = [f"{'x'.join(map(str, shape))} {tried}" for shape, tried in self.tried.items()]
        tokens = ", ".join(map(str, TRIED_TOKENS))
        found = "; ".join(shapes) or "all plain"
        dropped = {
            f"{name} ({why})"
            for tried in self.tried.values()
            for name, why in tried.dropped.items()
        }
        left_out = f"; dropped out: {', '.join(sorted(dropped))}" if dropped else ""
        return f"products, in ms of processor time for {tokens} tokens: {found}{left_out}"

    def _layouts_for(self, weight_RC: Tensor) -> tuple[str, ...]:
        if weight_RC.shape in self.tried:
            return self.tried[weight_RC.shape].layouts
        if self._spent_s > BUDGET_S:
            return Counter(each.layouts for each in self.tried.values()).most_common(1)[0][0]
        start_s = self.clock.now_s()
        tried = self.tried[weight_RC.shape] = self._try(weight_RC)
        self._spent_s += self.clock.now_s() - start_s
        return tried.layouts

    def _try(self, weight_RC: Tensor) -> Tried:
        ms, dropped = dict[str, tuple[float, ...]](), dict[str, str]()
        # One after the other, so that never more than one layout's copies are there.
        for name, make in self.layouts.items():
            try:
                ms[name] = self._time(make, weight_RC)
            except RuntimeError as error:  # what PyTorch raises, whatever is missing
                dropped[name] = str(error).partition("\n")[0]
        return Tried(layouts=_ranked(ms), ms=ms, dropped=dropped)

    def _time(self, make: MakeKernel, weight_RC: Tensor) -> tuple[float, ...]:
        """Raises RuntimeError if the layout cannot be made, or its results are wrong."""
        copies = math.ceil(ROTATED_BYTES / weight_RC.nbytes)
        kernels = [make(weight_RC.clone(), None) for _ in range(copies)]
        generator = torch.Generator().manual_seed(0)
        found = []
        for tokens in TRIED_TOKENS:
            x_TC = torch.randn(tokens, weight_RC.shape[1], generator=generator).to(weight_RC)
            check(kernels[0], weight_RC, x_TC)
            found.append(1e3 * self._best_lap_s(kernels, x_TC) / copies)
        return tuple(found)

    def _best_lap_s(self, kernels: list[Kernel], x_TC: Tensor) -> float:
        best_s = math.inf
        for _ in range(TRIES):
            best_s = min(best_s, self._lap_s(kernels, x_TC))
            if best_s > LONG_S:
                break
        return best_s

    def _lap_s(self, kernels: list[Kernel], x_TC: Tensor) -> float:
        start_s = self.clock.now_s()
        for kernel in kernels:
            kernel(x_TC)
        return self.clock.now_s() - start_s


def check(kernel: Kernel, weight_RC: Tensor, x_TC: Tensor) -> None:
    """Raises RuntimeError if what the kernel makes of x is not its product with the matrix."""
    every = math.ceil(len(weight_RC) / CHECKED_ROWS)
    exact_TR = functional.linear(x_TC.float(), weight_RC[::every].float())
    error_TR = kernel(x_TC)[:, ::every].float() - exact_TR
    share = float(error_TR.norm() / exact_TR.norm())
    if not share <= WRONG[weight_RC.dtype]:
        raise RuntimeError(f"{len(x_TC)} tokens give results that are off by {100 * share:.2g} %")


def _ranked(ms: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    """The best first: the first of all, unless another is worth it."""
    mean_ms = {name: math.prod(each) ** (1 / len(each)) for name, each in ms.items()}
    by_speed = sorted(ms, key=lambda name: mean_ms[name])
    for first in list(ms)[:1]:
        if mean_ms[by_speed[0]] * WORTH >= mean_ms[first]:
            by_speed.remove(first)
            by_speed.insert(0, first)
    return tuple(by_speed)


def _figures(ms: tuple[float, ...]) -> str:
    return " ".join(f"{each:.2f}" for each in ms)
