"""`edgeserve plan`: what would go where, without a GPU, a network or weights."""

from __future__ import annotations

import json

from edgeserve.config import GatewaySettings, number_bytes
from edgeserve.cost.reserve import cuda_runtime_bytes
from edgeserve.errors import BadRequest
from edgeserve.families.folder import ModelSource
from edgeserve.families.spec import Dtype
from edgeserve.plan.explain import explain, to_json, to_text
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.planner import default_pages_max, make_plan


def run_plan(source: ModelSource, workers: int, memory: str, dtype: str, as_json: bool) -> str:
    """The plan for `workers` GPUs with `memory` each ("12GB", or "12GB,24GB,12GB"), as text.

    Raises BadRequest or DoesNotFit.
    """
    plan = make_plan(
        source.spec,
        parse_dtype(dtype, source.spec.checkpoint_dtype),
        parse_workers(workers, memory),
        pages_max=default_pages_max(source.spec, GatewaySettings().max_running),
    )
    told = explain(plan, source)
    return json.dumps(to_json(told)) if as_json else to_text(told)


def parse_dtype(text: str, of_checkpoint: Dtype) -> Dtype:
    if text == "auto":
        return of_checkpoint
    try:
        return Dtype(text)
    except ValueError:
        known = ", ".join(["auto", *Dtype])
        raise BadRequest(f"--dtype {text!r} is none of {known}") from None


def parse_workers(count: int, memory: str) -> tuple[WorkerFacts, ...]:
    """One amount is every worker's; otherwise one for each."""
    try:
        amounts = [number_bytes(part) for part in memory.split(",")]
    except ValueError as error:
        raise BadRequest(f"--memory: {error}") from None
    if len(amounts) not in (1, count):
        raise BadRequest(
            f"--memory {memory!r} has {len(amounts)} amounts, but --workers is {count}; "
            f"give one amount for all, or {count}"
        )
    each = amounts * count if len(amounts) == 1 else amounts
    reserve_bytes = cuda_runtime_bytes(context_counts=True)
    return tuple(
        WorkerFacts(
            name=f"worker {i}", memory_bytes=amount, reserve_bytes=reserve_bytes, is_gpu=True
        )
        for i, amount in enumerate(each)
    )
