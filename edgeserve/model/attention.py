"""Attention over pages: writes the frame's keys and values, then lets each token look back.

Two ways to the same numbers. `Read` is PyTorch's own attention, one call for each sequence, whose
pages usually lie side by side, so that its keys are a view: the reference, on any device. `Group`
is for the CPU: sequences that are alike are computed together, as two products with a softmax
between them. PyTorch's attention for the CPU is slow with a mask and pays for each call; the
products take two thirds of its time for 16 sequences of 128 tokens, and a third for a later piece
of a prompt (docs/LOG.md).

    T tokens, S tokens so far, N query heads, K key/value heads, G = N / K queries that share a key,
    H head dim, P slots, F frequencies, B sequences of a group, KB pairs of key head and sequence
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from edgeserve.model.batch import Group, Read

SCORES_MAX = 2**22
"""Numbers in one tensor of scores. Above, key heads are taken one by one: 8 MB of scores in bf16
stay in the cache between product and softmax, and a long prompt's would need gigabytes."""


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
    q_BTKGH = q_TNH.view(count, tokens, kv_heads, share, dim) * dim**-0.5
    q_KBXH = q_BTKGH.permute(2, 0, 3, 1, 4).reshape(kv_heads, count, share * tokens, dim)
    k_KBSH = _side_by_side(keys_PKH, group)
    v_KBSH = _side_by_side(values_PKH, group)
    at_once = max(1, SCORES_MAX // (count * share * tokens * k_KBSH.shape[2]))
    found = [
        _look_up(q_KBXH[some], k_KBSH[some], v_KBSH[some], group.mask_BTS)
        for some in (slice(at, at + at_once) for at in range(0, kv_heads, at_once))
    ]
    found_KBXH = found[0] if len(found) == 1 else torch.cat(found)
    found_KBGTH = found_KBXH.view(kv_heads, count, share, tokens, dim)
    return found_KBGTH.permute(1, 3, 0, 2, 4).reshape(rows, heads, dim)


def _side_by_side(cache_PKH: Tensor, group: Group) -> Tensor:
    """[K, B, S, H]: a view of one sequence in consecutive pages, a copy of any other."""
    if isinstance(group.slots, slice):
        return cache_PKH.transpose(0, 1)[:, None, group.slots]
    # Slots of the cache as it lies: of the transposed one, PyTorch would first copy every page.
    some_XKH = cache_PKH.index_select(0, group.slots)
    return some_XKH.view(group.segments, -1, *cache_PKH.shape[1:]).permute(2, 0, 1, 3)


def _look_up(q_KBXH: Tensor, k_KBSH: Tensor, v_KBSH: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """X = G times T queries, of which each finds a mixture of its sequence's S values."""
    q_YXH, k_YSH, v_YSH = (each.flatten(0, 1) for each in (q_KBXH, k_KBSH, v_KBSH))
    if q_YXH.shape[1] < k_YSH.shape[1]:
        # The larger factor first: with few rows on the left the product is up to 5 times slower.
        scores_YXS = torch.bmm(k_YSH, q_YXH.transpose(1, 2)).transpose(1, 2).contiguous()
    else:
        scores_YXS = torch.bmm(q_YXH, k_YSH.transpose(1, 2))
    if mask_BTS is not None:
        count, tokens, keys = mask_BTS.shape
        scores_YXS.view(-1, count, scores_YXS.shape[1] // tokens, tokens, keys).add_(
            mask_BTS[:, None]
        )
    return torch.bmm(scores_YXS.softmax(-1), v_YSH)


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
