"""The ways in which a CPU can hold a matrix and multiply with it.

Each raises RuntimeError, as PyTorch does, where it cannot be made: the processor lacks
instructions, PyTorch was built without the library, or the matrix has numbers that do not fit.
Refuses to know which is fastest.

    T tokens, R rows and C columns of the matrix
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.model.product import Kernel, MakeKernel

PACKED_FOR_TOKENS = 16
"""oneDNN chooses its layout for a number of tokens. Packed for 1, 16 or 256, all batch sizes take
the same time to within 10 %, but for the first use of 256."""
BLOCK_NUMBERS = 16 * 2**20
"""Numbers that are packed at a time: as fp32 they take 64 MiB."""
LARGEST_EXPONENT = 16  # fp16 ends at 65504
EXPONENT_MAX = 120  # fp32 ends at 2^128, and holds 2^-120 in full precision


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
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        raise RuntimeError("PyTorch was built without oneDNN")
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight_RC, PACKED_FOR_TOKENS)
    multiply: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return lambda x_TC: multiply(x_TC, blocks, bias_R, "none", [], "")


def fp16_blocks(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """In FBGEMM's blocks of fp16, which are widened in registers: half of the bytes to read for a
    processor that multiplies nothing but fp32.

    A power of two for each row moves its numbers to the upper end of fp16, so that bf16's fit, too:
    all that are not 2^33 times smaller than the row's largest exactly, and of the others what is
    lost is far below the rounding of the sum. A matrix of fp32 is taken only if none of its numbers
    changes, as none does that was widened from bf16 or fp16.
    """
    largest_R = weight_RC.abs().amax(1).float()
    if not largest_R.isfinite().all():
        raise RuntimeError("the matrix has numbers that are not finite")
    exponent_R = (LARGEST_EXPONENT - largest_R.frexp().exponent).clamp_(max=EXPONENT_MAX)
    rows = max(1, BLOCK_NUMBERS // weight_RC.shape[1])
    blocks = zip(torch.split(weight_RC, rows), torch.split(exponent_R, rows), strict=True)
    parts = [_fp16_part(rows_RC, up_R) for rows_RC, up_R in blocks]
    unit_R = torch.exp2(-exponent_R.float())
    multiply: Callable[..., Tensor] = torch.ops.quantized.linear_dynamic_fp16.default

    def kernel(x_TC: Tensor) -> Tensor:
        wide_TC = x_TC.float()
        out = [multiply(wide_TC, part) for part in parts]
        out_TR = (out[0] if len(out) == 1 else torch.cat(out, 1)).mul_(unit_R)
        return (out_TR if bias_R is None else out_TR.add_(bias_R)).to(x_TC.dtype)

    return kernel


def _fp16_part(rows_RC: Tensor, exponent_R: Tensor) -> object:
    scaled_RC = rows_RC.float() * torch.exp2(exponent_R.float())[:, None]
    if rows_RC.dtype is torch.float32 and not torch.equal(scaled_RC.half().float(), scaled_RC):
        raise RuntimeError("the matrix has numbers that fp16 would round")
    return torch.ops.quantized.linear_prepack_fp16(scaled_RC, None)


LAYOUTS: dict[str, MakeKernel] = {
    "packed": packed,
    "plain": plain,
    "row by row": row_by_row,
    "fp16 blocks": fp16_blocks,
}
