"""From the product of queries, keys and values to where attention finds them: norm of the heads if
the model has one, rotation, and keys and values written to their pages.

One program for each head of each token. Angles come from outside, in fp32: the device's fast sine
is wrong by whole turns at the positions of a long context.

    T tokens, N query heads, K key/value heads, H head dim, P slots, F frequencies
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from edgeserve.model.frame_table import FIELDS, SLOT_FIELD

_FIELDS = tl.constexpr(FIELDS)
_SLOT = tl.constexpr(SLOT_FIELD)


@dataclass(frozen=True, kw_only=True)
class HeadNorms:
    """Weights [H] by which every query and key head is normed."""

    q_H: Tensor
    k_H: Tensor
    eps: float


@dataclass(frozen=True, kw_only=True)
class Turns:
    """How far each token's heads are turned, [T, F] in fp32; the same for all layers."""

    cos_TF: Tensor
    sin_TF: Tensor


def rotate_and_write(
    qkv: Tensor,
    norms: HeadNorms | None,
    turns: Turns,
    rows_T8: Tensor,
    keys_PKH: Tensor,
    values_PKH: Tensor,
) -> Tensor:
    """Queries [T, N, H], a view of `qkv` in which they are turned. A token whose slot is -1 writes
    nothing.
    """
    kv_heads, dim = keys_PKH.shape[1:]
    heads, half = qkv.shape[1] // dim - 2 * kv_heads, turns.cos_TF.shape[-1]
    rest = dim - 2 * half
    _rotate_and_write[len(qkv), heads + 2 * kv_heads](
        qkv, turns.cos_TF, turns.sin_TF, rows_T8, keys_PKH, values_PKH,
        norms.q_H if norms else qkv, norms.k_H if norms else qkv, norms.eps if norms else 0.0,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, HALF=half, REST=rest,
        BLOCK_HALF=triton.next_power_of_2(half), BLOCK_REST=triton.next_power_of_2(max(1, rest)),
        HAS_NORM=norms is not None, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return qkv.view(len(qkv), -1, dim)[:, :heads]


@triton.jit
def _rotate_and_write(
    qkv_ptr: tl.tensor, cos_ptr: tl.tensor, sin_ptr: tl.tensor, rows_ptr: tl.tensor,
    keys_ptr: tl.tensor, values_ptr: tl.tensor,
    q_norm_ptr: tl.tensor, k_norm_ptr: tl.tensor, eps: tl.tensor,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    REST: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_REST: tl.constexpr,
    HAS_NORM: tl.constexpr,
) -> None:  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    f, r = tl.arange(0, BLOCK_HALF), 2 * HALF + tl.arange(0, BLOCK_REST)
    is_half, is_rest = f < HALF, r < DIM
    x_ptr = qkv_ptr + token.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * DIM) + head * DIM
    # The pairs (a, b) that turn together, and what does not turn.
    a = tl.load(x_ptr + f, mask=is_half, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + HALF + f, mask=is_half, other=0.0).to(tl.float32)
    rest = tl.load(x_ptr + r, mask=is_rest, other=0.0).to(tl.float32)

    if head < HEADS + KV_HEADS:
        if HAS_NORM:
            squares = tl.sum(a * a + b * b, axis=0) + tl.sum(rest * rest, axis=0)
            scale = tl.rsqrt(squares / DIM + eps)
            norm_ptr = q_norm_ptr if head < HEADS else k_norm_ptr
            a *= scale * tl.load(norm_ptr + f, mask=is_half, other=0.0).to(tl.float32)
            b *= scale * tl.load(norm_ptr + HALF + f, mask=is_half, other=0.0).to(tl.float32)
            rest *= scale * tl.load(norm_ptr + r, mask=is_rest, other=0.0).to(tl.float32)
        cos = tl.load(cos_ptr + token * HALF + f, mask=is_half, other=1.0)
        sin = tl.load(sin_ptr + token * HALF + f, mask=is_half, other=0.0)
        a, b = a * cos - b * sin, b * cos + a * sin

    slot = tl.load(rows_ptr + token * _FIELDS + _SLOT).to(tl.int64)
    if head < HEADS:
        out_ptr = x_ptr
    elif head < HEADS + KV_HEADS:
        out_ptr = keys_ptr + (slot * KV_HEADS + head - HEADS) * DIM
    else:
        out_ptr = values_ptr + (slot * KV_HEADS + head - HEADS - KV_HEADS) * DIM
    if head < HEADS or slot >= 0:
        dtype = qkv_ptr.dtype.element_ty
        tl.store(out_ptr + f, a.to(dtype), mask=is_half)
        tl.store(out_ptr + HALF + f, b.to(dtype), mask=is_half)
        if REST > 0:
            tl.store(out_ptr + r, rest.to(dtype), mask=is_rest)
