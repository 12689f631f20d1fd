"""Whether cuBLAS or a kernel of ours multiplies: found out by trying, when a slice is loaded.

cuBLAS chooses among its kernels by rules of its own, and for a few rows it leaves a part of a
card's bandwidth unused that differs by card, shape and number of rows. So for each shape of a
matrix, and for one row, for up to 16 and for up to 64, every candidate multiplies by the matrices
of the slice itself, and the fastest is kept. One that fails, or whose results are wrong, drops out.
All hold the matrix as it is, so a choice costs no memory. More rows are a prompt's, and left to
the first candidate.

Two cards, or two loads on one, may choose differently, and the results then differ in their last
bits: the choice is in the log. Given the same times it is the same. Knows no device: the timer is
given.

    T rows of x, R rows and C columns of the matrix
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from edgeserve.clock import Timekeeper
from edgeserve.model.packed import check
from edgeserve.model.product import Kernel, MakeKernel, Product

ROWS_MAX = (1, 16, 64)
"""One choice for each; a decode, a batch, and all that a graph holds."""
TRIED_ROWS = (1, 8, 32)
WORTH = 1.03  # so many times faster than the first has to be whoever replaces it
COPIES = 8
"""Matrices of one shape that are multiplied in turn: more than a cache holds."""
BUDGET_S = 30.0
"""After that the remaining shapes stay with the first. Timing takes a fifth of a second for each of
five shapes; what Triton compiles at a machine's first start takes the rest."""


class Timer(Protocol):
    def __call__(self, works: Sequence[Callable[[], object]], /) -> float:
        """Seconds that the device needs for all of them, one after another."""
        ...

    def close(self) -> None:
        """Gives back what timing has taken."""
        ...


@dataclass(frozen=True, kw_only=True)
class TriedLinear:
    """What was chosen for a shape, and the microseconds that decided."""

    chosen: tuple[str, ...]
    """For each of ROWS_MAX."""
    us: dict[str, tuple[float, ...]]
    """Of each candidate that works, for each of TRIED_ROWS."""

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {_figures(us)}" for name, us in self.us.items())
        return f"{' / '.join(self.chosen)} ({figures or 'nothing works'})"


@dataclass(kw_only=True)
class FastestLinear:
    """Notes the linear layers of a slice as they are filled, and chooses when all of them are."""

    candidates: Mapping[str, MakeKernel]
    """The first is PyTorch's own, which a layer has unless another is better."""
    timer: Timer
    clock: Timekeeper
    failures: tuple[type[Exception], ...] = (RuntimeError,)
    """What says that a candidate does not work here."""
    tried: dict[torch.Size, TriedLinear] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    """Why, of each candidate that failed somewhere."""
    _layers: dict[torch.Size, list[Product]] = field(default_factory=dict)
    _left_out: int = 0

    def __call__(self, _name: str, product: Product) -> None:
        self._layers.setdefault(product.weight.shape, []).append(product)

    def finish(self) -> None:
        start_s = self.clock.now_s()
        for shape, layers in self._layers.items():
            if self.clock.now_s() - start_s > BUDGET_S:
                self._left_out += 1
                continue
            tried = self.tried[shape] = self._try(layers)
            if set(tried.chosen) == {self._first}:
                continue
            for layer in layers:
                layer.hand_over(partial(self._by_rows, tried.chosen))
        self._layers.clear()
        self.timer.close()

    def report(self) -> str:
        """For the log: 'linear layers ...: 5120x5120 Triton / Triton / cuBLAS (cuBLAS 180.1 ...'"""
        shapes = [f"{'x'.join(map(str, shape))} {tried}" for shape, tried in self.tried.items()]
        up_to, rows = ", ".join(map(str, ROWS_MAX)), ", ".join(map(str, TRIED_ROWS))
        left_out = f"; no time for {self._left_out} other shapes" if self._left_out else ""
        dropped = "".join(f"; {name} dropped out: {why}" for name, why in self.dropped.items())
        return (
            f"linear layers for up to {up_to} rows (us for {rows}): "
            f"{'; '.join(shapes) or 'all plain'}{left_out}{dropped}"
        )

    @property
    def _first(self) -> str:
        return next(iter(self.candidates))

    def _try(self, layers: Sequence[Product]) -> TriedLinear:
        us = dict[str, tuple[float, ...]]()
        for name, make in self.candidates.items():
            try:
                us[name] = self._time(make, layers)
            except self.failures as error:
                self.dropped[name] = str(error).partition("\n")[0]
        chosen = tuple(self._best(us, at) for at in range(len(TRIED_ROWS)))
        return TriedLinear(chosen=chosen, us=us)

    def _time(self, make: MakeKernel, layers: Sequence[Product]) -> tuple[float, ...]:
        """Raises RuntimeError if the results are wrong."""
        weights = [each.weight.data for each in layers[:COPIES]]
        kernels = [make(each, None) for each in weights] * math.ceil(COPIES / len(weights))
        generator = torch.Generator().manual_seed(0)
        found = []
        for rows in TRIED_ROWS:
            x_TC = torch.randn(rows, weights[0].shape[1], generator=generator).to(weights[0])
            check(kernels[0], weights[0], x_TC)
            taken_s = self.timer([partial(each, x_TC) for each in kernels])
            found.append(1e6 * taken_s / len(kernels))
        return tuple(found)

    def _best(self, us: Mapping[str, Sequence[float]], at: int) -> str:
        """The fastest, unless the first is nearly as fast."""
        if not us:
            return self._first
        fastest = min(us, key=lambda name: us[name][at])
        is_worth = self._first not in us or us[fastest][at] * WORTH < us[self._first][at]
        return fastest if is_worth else self._first

    def _by_rows(self, chosen: Sequence[str], weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
        made = {name: self.candidates[name](weight_RC, bias_R) for name in {*chosen, self._first}}
        kernels = [(most, made[name]) for most, name in zip(ROWS_MAX, chosen, strict=True)]
        many = made[self._first]

        def kernel(x_TC: Tensor) -> Tensor:
            rows = len(x_TC)
            return next((each for most, each in kernels if rows <= most), many)(x_TC)

        return kernel


def _figures(us: Sequence[float]) -> str:
    return " ".join(f"{each:.1f}" for each in us)
