"""The residual sum and the RMS norm that follows it, in one pass over the row.

T tokens, D hidden
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NUMBERS_EACH = 512
"""Of a row for each warp, 16 for each thread. With 32 Triton 3.7.1 puts registers aside for rows of
5,120 numbers in bf16 on an RTX 3060, and Triton 3.9.0 for those in fp16."""
WARPS_MIN, WARPS_MAX = 4, 16


def norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    normed_TD = torch.empty_like(x_TD)
    _launch(x_TD, None, x_TD, normed_TD, weight_D, eps)
    return normed_TD


def add_and_norm(
    x_TD: Tensor, delta_TD: Tensor, weight_D: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """x + delta, and the norm of that."""
    sum_TD, normed_TD = torch.empty_like(x_TD), torch.empty_like(x_TD)
    _launch(x_TD, delta_TD, sum_TD, normed_TD, weight_D, eps)
    return sum_TD, normed_TD


def _launch(  # what the kernel takes
    x_TD: Tensor,
    delta_TD: Tensor | None,
    sum_TD: Tensor,
    normed_TD: Tensor,
    weight_D: Tensor,
    eps: float,
) -> None:
    assert x_TD.is_contiguous()
    assert delta_TD is None or delta_TD.is_contiguous()
    tokens, size = x_TD.shape
    block = triton.next_power_of_2(size)
    _add_and_norm[(tokens,)](
        x_TD, x_TD if delta_TD is None else delta_TD, sum_TD, normed_TD, weight_D, eps,
        SIZE=size, BLOCK=block, HAS_DELTA=delta_TD is not None,
        num_warps=min(max(block // NUMBERS_EACH, WARPS_MIN), WARPS_MAX), enable_fp_fusion=True,
    )  # fmt: skip


@triton.jit
def _add_and_norm(
    x_ptr: tl.tensor, delta_ptr: tl.tensor, sum_ptr: tl.tensor, normed_ptr: tl.tensor,
    weight_ptr: tl.tensor, eps: tl.tensor,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_DELTA: tl.constexpr,
) -> None:  # fmt: skip
    column = tl.arange(0, BLOCK)
    is_column = column < SIZE
    at = tl.program_id(0).to(tl.int64) * SIZE + column
    x = tl.load(x_ptr + at, mask=is_column, other=0.0).to(tl.float32)
    if HAS_DELTA:
        x += tl.load(delta_ptr + at, mask=is_column, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + at, rounded, mask=is_column)
        x = rounded.to(tl.float32)  # of what is handed on, as where the two steps are apart
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / SIZE + eps)
    weight = tl.load(weight_ptr + column, mask=is_column, other=0.0).to(tl.float32)
    normed = (x * scale * weight).to(normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + at, normed, mask=is_column)
