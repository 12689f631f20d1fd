"""Products of whole numbers, and which of them this processor computes rightly.

A row of the matrix has a scale, and so have the numbers of each token, found as it comes. A
processor with VNNI adds products of 8-bit numbers in 32 bits. Others first add pairs of them in 16
bits, where the largest overflow: such a sum becomes 32,767, and nothing says so. So a product that
would overflow is tried before the first matrix is rounded.

    T tokens, R rows and C columns of the matrix
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.model.product import Kernel, MakeKernel

BLOCK_NUMBERS = 4 * 2**20
"""Numbers that are rounded at a time: in fp32 and as whole numbers they take 16 MiB each."""
BLOCK_ROWS = 64  # what the CPU's int4 products hold side by side; blocks end between two of them
LARGEST_8_BIT, LARGEST_7_BIT = 127, 63
PAIR_MAX = 128  # times 255, a token's largest number counted from zero: still below 2^15
RARE = 0.007
"""Of a matrix' numbers, those with 8 bytes beside the matrix. Normally distributed ones in rows of
2,048 are 0.0055; trained ones have larger extremes, and so fewer."""
PROBE_TOKENS = (1, 8, 64)  # kernels may differ by the number
PROBE_SIZE = 64
PROBE_ERROR_MAX = 0.01


@dataclass(frozen=True, kw_only=True)
class Int8Way:
    """A way to multiply whole numbers."""

    name: str
    make: MakeKernel


def int8(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """On a CPU: tokens and rows as whole numbers, in the fastest way that is right here."""
    return int8_way().make(weight_RC, bias_R)


@functools.cache
def int8_way() -> Int8Way:
    """What this processor computes rightly, and fastest."""
    return first_right(INT8_WAYS)


def first_right(ways: Sequence[Int8Way]) -> Int8Way:
    """The first whose results are right where they are the largest that can be, else the last.

    Found out by multiplying, since no list of features says it: kernels are chosen by libraries,
    which take no notice of some instructions and can be told not to use others.
    """
    return next((way for way in ways if is_right(way.make)), ways[-1])


def is_right(make: MakeKernel) -> bool:
    """Whether pairs of the largest products, which may be added in 16 bits, are added rightly."""
    try:
        return all(_is_right_for(make, weight_RC) for weight_RC in (_all_large(), _few_large()))
    except RuntimeError:  # PyTorch has no such product here
        return False


def _all_large() -> Tensor:
    """Sums as large as can be, positive and negative."""
    weight_RC = torch.ones(PROBE_SIZE, PROBE_SIZE)
    weight_RC[1::2] = -1
    return weight_RC


def _few_large() -> Tensor:
    """Two large numbers in each row, next to each other or up to three further on: whichever are
    a pair, some rows have it.
    """
    row = torch.arange(PROBE_SIZE)
    weight_RC = torch.zeros(PROBE_SIZE, PROBE_SIZE)
    weight_RC[row, row % 48] = weight_RC[row, row % 48 + 1 + row % 4] = 1 - row // 2 % 2 * 2.0
    return weight_RC


def _is_right_for(make: MakeKernel, weight_RC: Tensor) -> bool:
    kernel = make(weight_RC.clone(), None)
    return all(_probe_error(kernel, weight_RC, tokens) < PROBE_ERROR_MAX for tokens in PROBE_TOKENS)


def _probe_error(kernel: Kernel, weight_RC: Tensor, tokens: int) -> float:
    x_TC = torch.ones(tokens, PROBE_SIZE)
    x_TC[1::2] = -1
    exact_TR = x_TC @ weight_RC.T
    return float((kernel(x_TC) - exact_TR).norm() / exact_TR.norm())


def int8_one_pass(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """Tokens and rows as 8-bit numbers, on a CPU that adds their products in 32 bits (VNNI)."""
    multiply = _whole_products(*round_rows(weight_RC), LARGEST_8_BIT)

    def kernel(x_TC: Tensor) -> Tensor:
        wide_TC, range_T1 = _ranged(x_TC)
        out_TR = multiply(wide_TC).mul_(range_T1)
        return (out_TR if bias_R is None else out_TR.add_(bias_R)).to(x_TC.dtype)

    return kernel


def int8_without_overflow(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """The same on a CPU that adds pairs of products in 16 bits.

    What a pair of neighbours in a row has above `PAIR_MAX` is taken out of it and multiplied apart,
    as a sparse matrix: rarely more than one number in 200. Rows that have more, since most of their
    numbers are large, are multiplied in two passes.
    """
    whole_RC, scale_R = round_rows(weight_RC)
    rest = _take_out_rest(whole_RC)
    if len(rest.value) > RARE * whole_RC.numel():
        return int8_two_passes(weight_RC, bias_R)
    multiply = _whole_products(whole_RC, scale_R, LARGEST_8_BIT)
    rest_RC = rest.matrix(scale_R, whole_RC.shape)

    def kernel(x_TC: Tensor) -> Tensor:
        wide_TC, range_T1 = _ranged(x_TC)
        out_TR = multiply(wide_TC).add_(_sparse_product(rest_RC, wide_TC)).mul_(range_T1)
        return (out_TR if bias_R is None else out_TR.add_(bias_R)).to(x_TC.dtype)

    return kernel


def _sparse_product(matrix_RC: Tensor, x_TC: Tensor) -> Tensor:
    if len(x_TC) == 1:  # in half of the time of a matrix with one column
        return torch.mv(matrix_RC, x_TC[0])[None]
    return (matrix_RC @ x_TC.T).T


@dataclass(frozen=True, kw_only=True)
class Rest:
    """Whole numbers that were taken out of a matrix, row by row."""

    row: Tensor
    column: Tensor
    value: Tensor

    def matrix(self, scale_R: Tensor, shape: torch.Size) -> Tensor:
        counts = torch.bincount(self.row, minlength=shape[0])
        starts = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
            return torch.sparse_csr_tensor(
                starts.int(), self.column.int(), self.value * scale_R[self.row], shape,
                check_invariants=True,
            )  # fmt: skip


def _take_out_rest(whole_RC: Tensor) -> Rest:
    """Makes the numbers of `whole_RC` smaller that a pair has too large."""
    found, start = list[tuple[Tensor, Tensor, Tensor]](), 0
    for rows_RC in blocks(whole_RC):
        sums_RP = rows_RC[:, 0:-1:2].short() + rows_RC[:, 1::2]  # of unlike signs, none is large
        row, pair = (sums_RP.abs() > PAIR_MAX).nonzero(as_tuple=True)
        sums, column = sums_RP[row, pair], 2 * pair
        value = sums - sums.sign() * PAIR_MAX
        rows_RC[row, column] -= value.to(torch.int8)  # at most to 1, since the other is below 128
        found.append((row + start, column, value))
        start += len(rows_RC)
    row, column, value = (torch.cat(each) for each in zip(*found, strict=True))
    return Rest(row=row, column=column, value=value)


def int8_two_passes(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """Tokens as two 7-bit numbers each, on a CPU that adds pairs of products in 16 bits.

    2 * 127 * 127 are less than 2^15. The two stand below each other, so the matrix is read once:
    for few tokens the second costs nothing.
    """
    multiply = _whole_products(*round_rows(weight_RC), LARGEST_7_BIT)

    def kernel(x_TC: Tensor) -> Tensor:
        wide_TC, range_T1 = _ranged(x_TC)
        coarse_TC = (wide_TC * LARGEST_7_BIT).round_().div_(LARGEST_7_BIT)
        rest_TC = (wide_TC - coarse_TC).mul_(2 * LARGEST_7_BIT)  # from -1 to 1 again
        coarse_TR, rest_TR = multiply(torch.cat((coarse_TC, rest_TC))).chunk(2)
        out_TR = coarse_TR.add_(rest_TR, alpha=0.5 / LARGEST_7_BIT).mul_(range_T1)
        return (out_TR if bias_R is None else out_TR.add_(bias_R)).to(x_TC.dtype)

    return kernel


def _ranged(x_TC: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers from -1 to 1, so that all tokens have the same scale, which is what the product
    takes; and what 1 is worth in each.
    """
    wide_TC = x_TC.float()
    range_T1 = wide_TC.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
    return wide_TC / range_T1, range_T1


def _whole_products(whole_RC: Tensor, scale_R: Tensor, largest: int) -> Callable[[Tensor], Tensor]:
    """Of numbers from -1 to 1, which become whole ones from -`largest` to `largest`."""
    with warnings.catch_warnings():
        # PyTorch means to take such tensors away. The product that is to follow them needs a
        # third more time for a single token (docs/LOG.md).
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor")
        matrix = torch._make_per_channel_quantized_tensor(
            whole_RC, scale_R.double(), torch.zeros(len(scale_R), dtype=torch.int64), 0
        )
    torch.backends.quantized.engine = "x86"
    held = torch.ops.quantized.linear_prepack(matrix, None)
    multiply: Callable[..., Tensor]
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
    return lambda x_TC: multiply(x_TC, 1 / largest, largest + 1, held)


def int8_widened(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """Rows as whole numbers that are widened for each product; on any device."""
    whole_RC, scale_R = round_rows(weight_RC)

    def kernel(x_TC: Tensor) -> Tensor:
        out_TR = functional.linear(x_TC, whole_RC.to(x_TC.dtype)).float() * scale_R
        return (out_TR if bias_R is None else out_TR + bias_R).to(x_TC.dtype)

    return kernel


def round_rows(weight_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from -127 to 127, and what one is worth in each row. What it takes beside them
    is a block in fp32.
    """
    whole_RC = torch.empty_like(weight_RC, dtype=torch.int8)
    scale_R = torch.empty(len(weight_RC), device=weight_RC.device)
    start = 0
    for rows_RC in blocks(weight_RC):
        some, wide_RC = slice(start, start + len(rows_RC)), rows_RC.float()
        low_R, high_R = wide_RC.aminmax(dim=1)
        scale_R[some] = (torch.maximum(-low_R, high_R) / 127).clamp_min_(1e-12)
        whole_RC[some] = (wide_RC / scale_R[some, None]).round_()
        start = some.stop
    return whole_RC, scale_R


def blocks(weight_RC: Tensor) -> Iterator[Tensor]:
    rows = max(1, BLOCK_NUMBERS // weight_RC.shape[1] // BLOCK_ROWS) * BLOCK_ROWS
    yield from torch.split(weight_RC, rows)


INT8_WAYS = (
    Int8Way(name="in one pass", make=int8_one_pass),
    Int8Way(name="in one pass, without sums that overflow here", make=int8_without_overflow),
    Int8Way(name="in two passes of 7 bits, since one overflows here", make=int8_two_passes),
    Int8Way(name="after widening, since this PyTorch has no faster way here", make=int8_widened),
)
