"""silu(gate) * up, from the product that holds both side by side.

T tokens, F numbers between the two products of the feed-forward
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def silu_times_up(gate_up: Tensor) -> Tensor:
    """[T, F] from [T, 2 F]."""
    assert gate_up.is_contiguous()
    tokens, size = len(gate_up), gate_up.shape[1] // 2
    out_TF = gate_up.new_empty((tokens, size))
    _silu_times_up[tokens, triton.cdiv(size, BLOCK)](
        gate_up, out_TF, SIZE=size, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=True
    )
    return out_TF


@triton.jit
def _silu_times_up(
    gate_up_ptr: tl.tensor, out_ptr: tl.tensor, SIZE: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_column = column < SIZE
    token = tl.program_id(0).to(tl.int64)
    at = gate_up_ptr + token * (2 * SIZE) + column
    gate = tl.load(at, mask=is_column, other=0.0).to(tl.float32)
    up = tl.load(at + SIZE, mask=is_column, other=0.0).to(tl.float32)
    out = (gate / (1.0 + tl.exp(-gate)) * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * SIZE + column, out, mask=is_column)
