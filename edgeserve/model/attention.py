"""Attention over pages: writes the frame's keys and values, then lets each segment look back.

The reference path, on any device. One call for each sequence: its pages usually lie side by side,
so its keys are a view, while a batched call would first have to gather them. (Measured on 2 cores
with 4 heads of 64: gathering costs 2 to 3 times the loop at 512 tokens, and gains only below 64.)

    T tokens, S tokens so far, N query heads, K key/value heads, G = N / K queries that share a key,
    H head dim P slots, F frequencies
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from edgeserve.model.batch import Read


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a layer has to know of a frame beside its hidden states; the same for all layers."""

    cos_T1F: Tensor
    sin_T1F: Tensor
    slots_T: Tensor
    reads: Sequence[Read]


def write(cache_PKH: Tensor, new_TKH: Tensor, slots_T: Tensor) -> None:
    cache_PKH.index_copy_(0, slots_T, new_TKH)


def attend(q_TNH: Tensor, keys_PKH: Tensor, values_PKH: Tensor, reads: Sequence[Read]) -> Tensor:
    """What each query found, [T, N, H]. The frame's own keys and values are already written."""
    if len(reads) == 1:
        return _attend_one(q_TNH, keys_PKH, values_PKH, reads[0])
    found_TNH = torch.empty_like(q_TNH)
    for read in reads:
        found_TNH[read.rows] = _attend_one(q_TNH[read.rows], keys_PKH, values_PKH, read)
    return found_TNH


def _attend_one(q_TNH: Tensor, keys_PKH: Tensor, values_PKH: Tensor, read: Read) -> Tensor:
    k_1KSH = keys_PKH[read.slots].transpose(0, 1)[None]
    v_1KSH = values_PKH[read.slots].transpose(0, 1)[None]
    tokens, heads, dim = q_TNH.shape
    kv_heads = keys_PKH.shape[1]
    if tokens == 1:
        # One token sees every key, so the G queries that share a key may pose as G tokens: each
        # key is then read once, not G times.
        q_1KGH = q_TNH.view(1, kv_heads, heads // kv_heads, dim)
        return scaled_dot_product_attention(q_1KGH, k_1KSH, v_1KSH).view(1, heads, dim)
    found_1NTH = scaled_dot_product_attention(
        q_TNH.transpose(0, 1)[None],
        k_1KSH,
        v_1KSH,
        attn_mask=read.mask_TS,
        is_causal=read.is_causal,
        enable_gqa=kv_heads != heads,
    )
    return found_1NTH[0].transpose(0, 1)
