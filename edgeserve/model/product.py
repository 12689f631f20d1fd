"""x times a matrix: the layer that nearly all time and memory goes into.

A product is filled with plain numbers, and may then be handed to a kernel that holds them in a form
of its own. Refuses to know which kernel is best, and for what.

    T tokens, R rows and C columns of the matrix
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

Kernel = Callable[[Tensor], Tensor]
"""Hidden numbers [T, C] to [T, R], bias included."""
MakeKernel = Callable[[Tensor, Tensor | None], Kernel]
"""Of a weight [R, C] and a bias [R]."""


def empty_parameter(*shape: int, dtype: torch.dtype, device: torch.device | str) -> nn.Parameter:
    """Memory, not yet numbers: whoever makes a slice fills all of it."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)


class Product(nn.Module):
    """x times a matrix of [rows, columns], plus a bias if there is one."""

    def __init__(
        self,
        rows: int,
        columns: int,
        bias: bool,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(rows, columns, dtype=dtype, device=device)
        self.bias = empty_parameter(rows, dtype=dtype, device=device) if bias else None
        self._kernel: Kernel | None = None

    def forward(self, x_TC: Tensor) -> Tensor:
        if self._kernel is not None:
            return self._kernel(x_TC)
        return functional.linear(x_TC, self.weight, self.bias)

    def hand_over(self, make: MakeKernel) -> None:
        """From now on the kernel multiplies, and what it does not keep of the weight is freed."""
        self._kernel = make(self.weight.data, None if self.bias is None else self.bias.data)
        del self.weight
        self.bias = None


class Preparation(Protocol):
    """What is done to each product of a slice as soon as it is full."""

    def __call__(self, name: str, product: Product, /) -> None:
        """`name` is the product's in the slice: `layers.13.qkv`, or `head`."""
        ...

    def finish(self) -> None:
        """All products of the slice are full."""
        ...

    def report(self) -> str:
        """What it did, as a line for the log."""
        ...


class LeavePlain:
    """The weights stay parameters, as a GPU and tests want them."""

    def __call__(self, _name: str, _product: Product) -> None:
        pass

    def finish(self) -> None:
        pass

    def report(self) -> str:
        return "products: plain"
