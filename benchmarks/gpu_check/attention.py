"""Attention of decodes over pages: how the number of parts of a sequence's keys, and of the stages
in which a program loads them, changes its speed, at several contexts. Many layers with caches of
their own in one CUDA graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu_check.setup import Setup
from benchmarks.gpu_check.timing import copy_bytes_per_s, open_torch_device, recorded_s
from edgeserve.families.folder import open_model
from edgeserve.families.spec import PAGE_TOKENS, ModelSpec
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import (
    DECODE_QUERIES,
    PARTS_MAX,
    Extent,
    FrameTable,
    empty_table,
    parts_for,
    tile_queries,
    tiles_of,
)
from edgeserve.model.kernels.attention import Cache, attend

Row = dict[str, Any]

ROWS = (1, 8)
LAYERS = 20
"""With 1,024 keys of a 13B model 420 MB: eight L2 caches."""

MEMORY_SHARE = 0.6
"""Of what is free, for the caches of all layers."""


def measure(setup: Setup, _argument: str) -> Iterator[Row]:
    device = open_torch_device(setup.device)
    spec = open_model(setup.model).spec
    copy_bytes = copy_bytes_per_s(device)
    yield {"copy_gb_s": round(copy_bytes / 1e9, 1)}
    for context in setup.contexts:
        for rows in ROWS[: 1 if setup.is_rehearsal else None]:
            for cut in cuts_tried(spec, rows, device):
                yield measured(setup, (context, rows, *cut), copy_bytes)


def cuts_tried(spec: ModelSpec, rows: int, device: torch.device) -> list[tuple[int, int]]:
    """Parts and stages: what a worker takes may be any of the first two."""
    chosen, *others = parts_tried(spec, rows, device)
    return [(chosen, 2), (chosen, 3), *((parts, 2) for parts in others)]


def parts_tried(spec: ModelSpec, rows: int, device: torch.device) -> list[int]:
    """What a worker takes first, then others about it."""
    processors = 1
    if device.type == "cuda":
        processors = int(torch.cuda.get_device_properties(device).multi_processor_count)
    chosen = parts_for(rows, spec.kv_heads, processors)
    return list(dict.fromkeys((chosen, 1, 2, max(1, chosen // 2), min(PARTS_MAX, 2 * chosen))))


@torch.inference_mode()
def measured(setup: Setup, case: tuple[int, int, int, int], copy_bytes_per_s: float) -> Row:
    """Sequences that all have `context` keys, each on pages of its own."""
    context, rows, parts, stages = case
    device, spec = torch.device(setup.device), open_model(setup.model).spec
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    pages = math.ceil(context / PAGE_TOKENS)
    shape = (rows * pages * PAGE_TOKENS, spec.kv_heads, spec.head_dim)
    layers = layers_that_fit(2 * math.prod(shape) * dtype.itemsize, device)
    caches = [
        Cache(
            keys_PKH=torch.randn(shape, device=device, dtype=dtype),
            values_PKH=torch.randn(shape, device=device, dtype=dtype),
            window_tokens=spec.window_tokens,
        )
        for _ in range(layers)
    ]
    q = torch.randn((rows, spec.heads, spec.head_dim), device=device, dtype=dtype)
    table = table_for(spec, case, device)
    taken_s = recorded_s(lambda: [attend(q, each, table) for each in caches], device) / layers
    rate = rows * context * 2 * spec.kv_rows * dtype.itemsize / taken_s
    return {
        "context": context, "rows": rows, "parts": parts, "stages": stages,
        "us": round(taken_s * 1e6, 1),
        "gb_s": round(rate / 1e9, 1), "copy_share": round(rate / copy_bytes_per_s, 3),
    }  # fmt: skip


def layers_that_fit(cache_bytes: int, device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    torch.cuda.empty_cache()  # what the last case had is free, too
    return max(1, min(LAYERS, int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] / cache_bytes)))


def table_for(spec: ModelSpec, case: tuple[int, int, int, int], device: torch.device) -> FrameTable:
    """One decode for each sequence, behind all of its keys."""
    context, rows, parts, stages = case
    pages = math.ceil(context / PAGE_TOKENS)
    segments = [
        PagedSegment(tuple(range(row * pages, (row + 1) * pages)), context - 1, 1)
        for row in range(rows)
    ]
    extent = Extent(
        rows=rows, asked=rows, tiles=rows, tile_queries=tile_queries(spec.group, DECODE_QUERIES),
        parts=parts, parts_wanted=rows * parts, stages=stages, segments=rows, pages_each=pages,
    )  # fmt: skip
    filled, table = empty_table(extent, "cpu"), empty_table(extent, device)
    filled.fill(segments, range(rows), tiles_of(segments, 1))
    table.flat.copy_(filled.flat)
    return table
