"""What the planner plans full fits into a GPU, by the model of PyTorch's allocator: every shape in
every dtype, on one card and on several, with and without --memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from edgeserve.cost.reserve import (
    CUBLAS_BYTES,
    CUBLAS_BYTES_SINCE_HOPPER,
    CUDA_CONTEXT_BYTES,
    CUDA_LATE_BYTES,
    cuda_runtime_bytes,
)
from edgeserve.errors import DoesNotFit
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import PAGE_TOKENS, Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.plan.facts import Plan, WorkerFacts
from edgeserve.plan.planner import default_pages_max, make_plan
from tests.cuda.allocator import CachingAllocator, OutOfMemory
from tests.cuda.replay import Replay, record_frames, record_weights, replay

GB = 10**9
CARDS_GB = (8, 12, 16, 24)
DTYPES = (Dtype.FP16, Dtype.FP32, Dtype.INT8, Dtype.INT4)
"""bf16 has the sizes of fp16."""
SHOWN = 0.97
"""Of a card's memory, in GiB, that CUDA shows: 11,906 MiB of an RTX 3060's 12 GiB."""
SPECIMENS = ("llama-2-13b", "qwen2.5-7b", "tinyllama-1.1b")
weights = functools.cache(record_weights)
frames = functools.cache(record_frames)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a worker says of its memory, and what its allocator can have of it."""

    facts: WorkerFacts
    limit_bytes: int
    workspace_bytes: int = CUBLAS_BYTES


def with_memory(memory_bytes: int, capability: tuple[int, int] = (8, 6)) -> Card:
    """--memory limits the allocator; the context comes on top."""
    return Card(
        facts=_facts(memory_bytes, context_counts=True, capability=capability),
        limit_bytes=memory_bytes - CUDA_CONTEXT_BYTES,
        workspace_bytes=CUBLAS_BYTES_SINCE_HOPPER if capability >= (9, 0) else CUBLAS_BYTES,
    )


def whole_card(gib: int) -> Card:
    """Without --memory: what is free while the context is there, of which it takes some more."""
    free_bytes = int(SHOWN * gib * 2**30) - CUDA_CONTEXT_BYTES + CUDA_LATE_BYTES
    return Card(
        facts=_facts(free_bytes, context_counts=False, capability=(8, 6)),
        limit_bytes=free_bytes - CUDA_LATE_BYTES,
    )


def _facts(memory_bytes: int, *, context_counts: bool, capability: tuple[int, int]) -> WorkerFacts:
    return WorkerFacts(
        name="card", memory_bytes=memory_bytes, is_gpu=True,
        reserve_bytes=cuda_runtime_bytes(context_counts=context_counts, capability=capability),
    )  # fmt: skip


def planned(shape: str, dtype: Dtype, card: Card, cards: int) -> Plan | None:
    """As many pages as there is room for; None if it does not fit."""
    spec = SHAPES[shape]
    try:
        return make_plan(
            spec, dtype, [card.facts] * cards, pages_max=default_pages_max(spec, 10**4)
        )
    except DoesNotFit:
        return None


def misfits(shape: str, dtype: Dtype, plan: Plan, card: Card) -> Iterator[str]:
    """What is out of memory where."""
    page_bytes = SHAPES[shape].kv_bytes_per_token(1, dtype) * PAGE_TOKENS
    for number, each in enumerate(plan.stages):
        needs = Needs(
            shape, dtype, each.stage.embedding, each.stage.head, len(each.stage.layers),
            plan.pages * page_bytes * len(each.stage.layers), plan.frame_tokens_max,
        )  # fmt: skip
        wrong = misfit(needs, card.limit_bytes, card.workspace_bytes)
        if wrong:
            yield (
                f"{shape} in {dtype} on {len(plan.stages)} x {card.facts.memory_bytes / GB:.1f} GB,"
                f" {plan.pages} pages, stage {number}: {wrong}"
            )


class Needs(NamedTuple):
    """What a stage takes depends on."""

    shape: str
    dtype: Dtype
    embedding: bool
    head: bool
    layers: int
    pages_bytes: int
    frame_tokens_max: int


@functools.cache
def misfit(needs: Needs, limit_bytes: int, workspace_bytes: int) -> str:
    """Empty if it fits."""
    spec, dtype = SHAPES[needs.shape], needs.dtype
    stage = Stage(LayerRange(0, needs.layers), embedding=needs.embedding, head=needs.head)
    place = Stage(LayerRange(0, 1), embedding=needs.embedding, head=needs.head)
    memory = Replay(allocator=CachingAllocator(limit_bytes), workspace_bytes=workspace_bytes)
    events = frames(spec, place, dtype, needs.frame_tokens_max)
    try:
        replay(stage, weights(spec, dtype, head=needs.head), needs.pages_bytes, events, memory)
    except OutOfMemory as error:
        return str(error)
    return ""


def cards(*, all_: bool) -> Iterator[Card]:
    """Each size with and without --memory; or each size once."""
    for number, size in enumerate(CARDS_GB):
        if all_ or number % 2 == 0:
            yield with_memory(size * GB)
        if all_ or number % 2 == 1:
            yield whole_card(size)


def cases() -> Iterator[tuple[str, Dtype]]:
    """fp16 of all shapes; the others of some: to record how a matrix is rounded takes seconds."""
    for dtype in DTYPES:
        for shape in sorted(set(SHAPES) - {"bench-1b"}):
            if dtype is Dtype.FP16 or shape in SPECIMENS:
                yield shape, dtype


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "dtype"), list(cases()))
def test_what_is_planned_full_fits(shape: str, dtype: Dtype) -> None:
    tried = [
        (card, plan)
        for card in cards(all_=dtype is Dtype.FP16)
        for count in (1, 2, 3)
        if (plan := planned(shape, dtype, card, count))
    ]

    assert [each for card, plan in tried for each in misfits(shape, dtype, plan, card)] == []


@pytest.mark.slow
def test_a_hopper_reserves_its_larger_workspaces() -> None:
    card = with_memory(24 * GB, capability=(9, 0))
    plan = planned("llama-3-8b", Dtype.FP16, card, 1)

    assert plan is not None
    assert list(misfits("llama-3-8b", Dtype.FP16, plan, card)) == []


@pytest.mark.parametrize(
    ("dtype", "cards_", "kv_tokens"),
    [
        (Dtype.INT8, 1, None),
        (Dtype.INT8, 2, 11632),
        (Dtype.INT4, 1, 4912),
        (Dtype.INT4, 2, 18848),
    ],
)
def test_13b_in_8_and_4_bits_on_12_gb_cards(
    dtype: Dtype, cards_: int, kv_tokens: int | None
) -> None:
    plan = planned("llama-2-13b", dtype, with_memory(12 * GB), cards_)

    assert (plan and plan.kv_tokens) == kv_tokens
