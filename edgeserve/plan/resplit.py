"""Which cut would be better at the speeds that the stages show, rather than at those that were
measured before the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeserve.plan.facts import Plan, WorkerFacts
from edgeserve.plan.partition import Problem, partition
from edgeserve.plan.planner import MIN_KV_TOKENS

MIN_GAIN = 0.02
"""Of the slowest stage's time: speeds are rounded by as much, and loading slices takes minutes."""


def better_layers(
    plan: Plan, workers: Sequence[WorkerFacts], compute_s: Sequence[float]
) -> tuple[int, ...] | None:
    """Layers for each worker; None if the present cut is as good.

    `compute_s` is what a frame takes on each stage of the plan. Time is taken to grow with what a
    stage reads, as the plan does.
    """
    if not compute_s or min(compute_s) <= 0:
        return None
    read_bytes = [plan.spec.read_bytes(each.stage, plan.dtype) for each in plan.stages]
    speeds = [read / took_s for read, took_s in zip(read_bytes, compute_s, strict=True)]
    problem = Problem(
        spec=plan.spec,
        dtype=plan.dtype,
        workers=tuple(
            replace(facts, read_bytes_per_s=speed)
            for facts, speed in zip(workers, speeds, strict=True)
        ),
        min_tokens=min(MIN_KV_TOKENS, plan.kv_tokens),
        frame_tokens_max=plan.frame_tokens_max,
    )
    counts = partition(problem)
    if counts is None:
        return None
    slowest_s = max(
        problem.spec.read_bytes(problem.stage(worker, count), plan.dtype) / speeds[worker]
        for worker, count in enumerate(counts)
    )
    return counts if slowest_s < (1 - MIN_GAIN) * max(compute_s) else None
