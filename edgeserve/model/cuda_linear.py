"""Linear layers for a GPU: what a matrix becomes there in 8 and in 4 bits, and what multiplies by
one in 16.

The whole numbers, scales and offsets are those of `quantised` and `int8`, which a CPU has too; only
where they lie differs. They are made a block of rows at a time, which takes some 75 MB beside the
matrix and its packed form. Imported only where there is a GPU: it needs Triton.

    R rows and C columns of the matrix, B bytes and G groups of a row
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeserve.clock import MonotonicClock
from edgeserve.families.spec import Dtype
from edgeserve.model.fastest_linear import FastestLinear
from edgeserve.model.graph_timer import GraphTimer
from edgeserve.model.int8 import blocks, round_rows
from edgeserve.model.kernels.linear import (
    CHUNK,
    FAILURES,
    HalfMatrix,
    Int4Matrix,
    Int8Matrix,
    Matrix,
    linear,
    pack_int4,
)
from edgeserve.model.layouts import plain
from edgeserve.model.product import Kernel, LeavePlain, MakeKernel, Preparation
from edgeserve.model.quantised import Quantise, group_or_fail, round_groups


def cuda_preparation(dtype: Dtype, processors: int) -> Preparation:
    """What is done to the linear layers of a slice on a GPU with so many multiprocessors."""
    if dtype is Dtype.FP32:
        return LeavePlain()
    if not dtype.is_quantised:
        return FastestLinear(
            candidates={"cuBLAS": plain, "Triton": half_linear(processors)},
            timer=GraphTimer(),
            clock=MonotonicClock(),
            failures=FAILURES,
        )
    return Quantise(
        dtype=dtype,
        make_int8=quantised_linear(Dtype.INT8, processors),
        make_int4=quantised_linear(Dtype.INT4, processors),
    )


def half_linear(processors: int) -> MakeKernel:
    """Makes a weight [R, C] in the dtype of x, and a bias [R], a linear layer that holds them."""

    def make(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
        return linear(HalfMatrix(weight_RC=weight_RC, bias_R=bias_R), processors)

    return make


def quantised_linear(dtype: Dtype, processors: int) -> MakeKernel:
    """Makes a weight [R, C] and a bias [R] a linear layer in 8 or 4 bits, on their device."""

    def make(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
        return linear(quantised_matrix(weight_RC, bias_R, dtype), processors)

    return make


def quantised_matrix(weight_RC: Tensor, bias_R: Tensor | None, dtype: Dtype) -> Matrix:
    return (int8_matrix if dtype is Dtype.INT8 else int4_matrix)(weight_RC, bias_R)


def int8_matrix(weight_RC: Tensor, bias_R: Tensor | None) -> Int8Matrix:
    whole_RC, scale_R = round_rows(weight_RC)
    return Int8Matrix(weight_RC=whole_RC, scale_R=scale_R, bias_R=bias_R)


def int4_matrix(weight_RC: Tensor, bias_R: Tensor | None) -> Int4Matrix:
    group, (rows, columns), device = group_or_fail(weight_RC), weight_RC.shape, weight_RC.device
    held_RB = torch.empty(
        (rows, -(-columns // CHUNK) * CHUNK // 2), dtype=torch.uint8, device=device
    )
    pair_RG2 = torch.empty((rows, columns // group, 2), dtype=torch.bfloat16, device=device)
    start = 0
    for rows_RC in blocks(weight_RC):
        some = slice(start, start + len(rows_RC))
        whole_RC, pair_RG2[some] = round_groups(rows_RC, group)
        held_RB[some] = pack_int4(whole_RC)
        start = some.stop
    pair_RG = pair_RG2.view(torch.int32).squeeze(-1)
    return Int4Matrix(
        weight_RB=held_RB, pair_RG=pair_RG, columns=columns, group=group, bias_R=bias_R
    )
