"""Attention over pages, without copying a key: of one token or of a whole chunk of a prompt.

Each program has one tile of queries (some tokens of one sequence, times the query heads that share
a key), one key/value head, and one part of the keys so far (flash-decoding): a single long sequence
must fill the card, too. A second kernel joins the parts; where there is one, the first writes the
result. How many keys a part has is told by the frame's table: a long sequence has more parts than a
short one beside it, and a program that is left without keys ends at once.

The page of a block is looked up while the block before is computed with. Looked up in the same
iteration, it would be what the compiler's pipeline waits for, and keys would come one block at a
time however many stages it has.

    keys of a sequence    [   part 0   |   part 1   |   part 2  ]     found through its page table
    a tile of queries          each part: the largest score, the sum of weights, the weighted values

    T tokens, N query heads, K key/value heads, G = N / K, H head dim, P slots, S parts
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.model.frame_table import (
    FIELDS,
    PART_KEYS_FIELD,
    PARTS_MAX,
    TILE_FIELD,
    FrameTable,
    block_keys,
)

_PAGE = tl.constexpr(PAGE_TOKENS)
_FIELDS = tl.constexpr(FIELDS)
_TILE = tl.constexpr(TILE_FIELD)
_PART_KEYS = tl.constexpr(PART_KEYS_FIELD - TILE_FIELD)
_PARTS_MAX = tl.constexpr(PARTS_MAX)


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One layer's keys and values, and how far back a token sees."""

    keys_PKH: Tensor
    values_PKH: Tensor
    window_tokens: int | None


def attend(q_TNH: Tensor, cache: Cache, table: FrameTable) -> Tensor:
    """What each query found, [T, N * H]. The frame's own keys and values are already written.

    Heads lie side by side in a row of `q_TNH`; rows may be further apart.
    """
    tokens, heads, dim = q_TNH.shape
    found = q_TNH.new_empty((tokens, heads * dim))
    if table.extent.parts == 1:
        _launch(q_TNH, cache, table, (found, None, None))
        return found
    shape = (tokens, heads, table.extent.parts)
    partial_TNSH = q_TNH.new_empty((*shape, dim), dtype=torch.float32)
    sums_TNS2 = q_TNH.new_empty((*shape, 2), dtype=torch.float32)
    _launch(q_TNH, cache, table, (None, partial_TNSH, sums_TNS2))
    _join_parts[tokens, heads](
        partial_TNSH, sums_TNS2, found, table.extent.parts,
        DIM=dim, BLOCK_DIM=_block_dim(dim), num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return found


def _launch(q_TNH: Tensor, cache: Cache, table: FrameTable, out: tuple[Tensor | None, ...]) -> None:
    """`out` is where the result goes if there is one part, else where parts and their sums go."""
    _, heads, dim = q_TNH.shape
    extent, kv_heads = table.extent, cache.keys_PKH.shape[1]
    _attend_part[extent.tiles, kv_heads, extent.parts](
        q_TNH, cache.keys_PKH, cache.values_PKH, table.rows_T8, table.pages_SW,
        *out, extent.parts, q_TNH.stride(0), table.pages_SW.stride(0),
        dim**-0.5 * math.log2(math.e),
        KV_HEADS=kv_heads, GROUP=heads // kv_heads, DIM=dim, WINDOW=cache.window_tokens or 0,
        BLOCK_ROWS=extent.tile_queries, BLOCK_KEYS=block_keys(dim, q_TNH.dtype),
        BLOCK_DIM=_block_dim(dim), ONE_PART=extent.parts == 1, num_warps=4,
        num_stages=1 if q_TNH.dtype is torch.float32 else extent.stages, enable_fp_fusion=True,
    )  # fmt: skip


def _block_dim(dim: int) -> int:
    return int(max(16, triton.next_power_of_2(dim)))  # the least that tensor cores take


@triton.jit(do_not_specialize=["parts"])
def _attend_part(
    q_ptr: tl.tensor, keys_ptr: tl.tensor, values_ptr: tl.tensor,
    rows_ptr: tl.tensor, pages_ptr: tl.tensor,
    found_ptr: tl.tensor, partial_ptr: tl.tensor, sums_ptr: tl.tensor,
    parts: tl.tensor, q_stride: tl.tensor, pages_stride: tl.tensor, scale: tl.tensor,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_KEYS: tl.constexpr, BLOCK_DIM: tl.constexpr,
    ONE_PART: tl.constexpr,
) -> None:  # fmt: skip
    kv_head, part = tl.program_id(1), tl.program_id(2)
    tile_ptr = rows_ptr + tl.program_id(0) * _FIELDS + _TILE
    sequence, first_row = tl.load(tile_ptr), tl.load(tile_ptr + 1)
    tokens, first_position = tl.load(tile_ptr + 2), tl.load(tile_ptr + 3)
    low, high = _keys_of_part(tile_ptr, part, WINDOW, ONE_PART)

    at = tl.arange(0, BLOCK_ROWS)
    is_row, position = at // GROUP < tokens, first_position + at // GROUP
    head = (first_row + at // GROUP) * (KV_HEADS * GROUP) + kv_head * GROUP + at % GROUP
    dim = tl.arange(0, BLOCK_DIM)
    # Without keys nothing is read and, but for the sums, nothing stored.
    is_dim, is_query = dim < DIM, is_row[:, None] & (dim < DIM)[None, :] & (low < high)
    q_head = (first_row + at // GROUP) * q_stride + (kv_head * GROUP + at % GROUP) * DIM
    q = tl.load(q_ptr + q_head[:, None] + dim[None, :], mask=is_query, other=0.0)

    largest = tl.full([BLOCK_ROWS], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    found = tl.zeros([BLOCK_ROWS, BLOCK_DIM], tl.float32)
    pages_ptr += sequence * pages_stride
    key = low + tl.arange(0, BLOCK_KEYS)
    page = tl.load(pages_ptr + key // _PAGE, mask=key < high, other=0)
    for _ in range(low, high, BLOCK_KEYS):
        is_key = key < high
        # 64 bits: a layer of a large cache has more than 2^31 numbers.
        slot = page.to(tl.int64) * _PAGE + key % _PAGE
        lies = (slot[:, None] * KV_HEADS + kv_head) * DIM + dim[None, :]
        # What is not read is 0: a page that another sequence left may hold NaN, and 0 * NaN is NaN.
        is_read = is_key[:, None] & is_dim[None, :]
        k = tl.load(keys_ptr + lies, mask=is_read, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(_is_seen(key, high, position, WINDOW), scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        # A row that has seen no key yet has -inf here, and -inf - -inf is NaN.
        base = tl.where(larger == float("-inf"), 0.0, larger)
        weights, kept = tl.exp2(scores - base[:, None]), tl.exp2(largest - base)
        total = total * kept + tl.sum(weights, axis=1)
        v = tl.load(values_ptr + lies, mask=is_read, other=0.0)
        news = tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        found, largest = found * kept[:, None] + news, larger
        key += BLOCK_KEYS
        page = tl.load(pages_ptr + key // _PAGE, mask=key < high, other=0)

    if ONE_PART:
        found /= tl.where(total > 0, total, 1.0)[:, None]  # a row of padding has seen no key
        tl.store(found_ptr + head[:, None] * DIM + dim[None, :], found, mask=is_query)
    else:
        stored = head * parts + part
        tl.store(partial_ptr + stored[:, None] * DIM + dim[None, :], found, mask=is_query)
        tl.store(sums_ptr + stored * 2, largest, mask=is_row)
        tl.store(sums_ptr + stored * 2 + 1, total, mask=is_row)


@triton.jit
def _keys_of_part(
    tile_ptr: tl.tensor, part: tl.tensor, WINDOW: tl.constexpr, ONE_PART: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Keys [low, high). An empty tile (a padded row of a graph) has none, a part may have none."""
    tokens, first_position = tl.load(tile_ptr + 2), tl.load(tile_ptr + 3)
    high = first_position + tokens
    low = high * 0
    if WINDOW > 0:
        low = tl.maximum(first_position - WINDOW + 1, 0)
    if not ONE_PART:
        part_keys = tl.load(tile_ptr + _PART_KEYS)
        low += part * part_keys
        high = tl.minimum(low + part_keys, high)
    return low, high


@triton.jit
def _is_seen(
    key: tl.tensor, high: tl.tensor, position: tl.tensor, WINDOW: tl.constexpr
) -> tl.tensor:
    """Which key each query looks at, [rows, keys]."""
    is_seen = (key < high)[None, :] & (key[None, :] <= position[:, None])
    if WINDOW > 0:
        is_seen = is_seen & (key[None, :] > position[:, None] - WINDOW)
    return is_seen


@triton.jit(do_not_specialize=["parts"])
def _join_parts(
    partial_ptr: tl.tensor, sums_ptr: tl.tensor, found_ptr: tl.tensor, parts: tl.tensor,
    DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
) -> None:  # fmt: skip
    head = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    part, dim = tl.arange(0, _PARTS_MAX), tl.arange(0, BLOCK_DIM)
    is_part, is_dim = part < parts, dim < DIM
    sums_ptr += (head * parts + part) * 2
    largest = tl.load(sums_ptr, mask=is_part, other=float("-inf"))
    total = tl.load(sums_ptr + 1, mask=is_part, other=0.0)
    is_part = largest > float("-inf")  # one without keys has stored nothing else
    weights = tl.exp2(largest - tl.max(largest, axis=0))
    found = tl.load(
        partial_ptr + (head * parts + part)[:, None] * DIM + dim[None, :],
        mask=is_part[:, None] & is_dim[None, :],
        other=0.0,
    )
    joined = tl.sum(found * weights[:, None], axis=0) / tl.sum(total * weights, axis=0)
    tl.store(found_ptr + head * DIM + dim, joined.to(found_ptr.dtype.element_ty), mask=is_dim)
