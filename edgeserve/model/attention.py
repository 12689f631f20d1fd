"""Attention over pages: writes the frame's keys and values, then lets each token look back.

Both by PyTorch's own attention. `Read` is the reference, on any device: one call for each sequence,
whose pages usually lie side by side, so that its keys are a view. `Group` is for the CPU: sequences
that are alike are copied side by side and computed in one call, which takes half of the time for 8
decodes (docs/LOG.md).

    T tokens, S tokens so far, N query heads, K key/value heads, G = N / K queries that share a key,
    H head dim, P slots, F frequencies, B sequences of a group, X = G times T queries
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from edgeserve.model.batch import Group, Read


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a layer has to know of a frame beside its hidden states; the same for all layers."""

    cos_T1F: Tensor
    sin_T1F: Tensor
    slots_T: Tensor
    reads: Sequence[Read | Group]


def write(cache_PKH: Tensor, new_TKH: Tensor, slots_T: Tensor) -> None:
    cache_PKH.index_copy_(0, slots_T, new_TKH)


def attend(
    q_TNH: Tensor,
    keys_PKH: Tensor,
    values_PKH: Tensor,
    reads: Sequence[Read | Group],
) -> Tensor:
    """What each query found, [T, N, H]. The frame's own keys and values are already written."""
    if len(reads) == 1:
        return _attend_some(q_TNH, keys_PKH, values_PKH, reads[0])
    found_TNH = torch.empty_like(q_TNH)
    for read in reads:
        found_TNH[read.rows] = _attend_some(q_TNH[read.rows], keys_PKH, values_PKH, read)
    return found_TNH


def _attend_some(q_TNH: Tensor, keys_PKH: Tensor, values_PKH: Tensor, read: Read | Group) -> Tensor:
    if isinstance(read, Group):
        return _attend_group(q_TNH, keys_PKH, values_PKH, read)
    return _attend_one(q_TNH, keys_PKH, values_PKH, read)


def _attend_group(q_TNH: Tensor, keys_PKH: Tensor, values_PKH: Tensor, group: Group) -> Tensor:
    rows, heads, dim = q_TNH.shape
    kv_heads, count = keys_PKH.shape[1], group.segments
    tokens, share = rows // count, heads // kv_heads
    # The G queries that share a key pose as G tokens: each key is read once.
    q_BTKGH = q_TNH.view(count, tokens, kv_heads, share, dim)
    q_BKXH = q_BTKGH.permute(0, 2, 3, 1, 4).reshape(count, kv_heads, share * tokens, dim)
    mask_B1XS = None if group.mask_BTS is None else group.mask_BTS.repeat(1, share, 1)[:, None]
    found_BKXH = scaled_dot_product_attention(
        q_BKXH,
        _side_by_side(keys_PKH, group),
        _side_by_side(values_PKH, group),
        attn_mask=mask_B1XS,
    )
    found_BKGTH = found_BKXH.view(count, kv_heads, share, tokens, dim)
    return found_BKGTH.permute(0, 3, 1, 2, 4).reshape(rows, heads, dim)


def _side_by_side(cache_PKH: Tensor, group: Group) -> Tensor:
    """[B, K, S, H]: a view of one sequence in consecutive pages, a copy of any other."""
    if isinstance(group.slots, slice):
        return cache_PKH.transpose(0, 1)[None, :, group.slots]
    # Slots of the cache as it lies: of the transposed one, PyTorch would first copy every page.
    some_XKH = cache_PKH.index_select(0, group.slots)
    return some_XKH.view(group.segments, -1, *cache_PKH.shape[1:]).transpose(1, 2)


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
