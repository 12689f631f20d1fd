"""Makes a plan, or says by how much the cluster is too small for one and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from edgeserve.errors import BadRequest, DoesNotFit
from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.stage import cut
from edgeserve.plan.amount import amount
from edgeserve.plan.facts import Plan, StagePlan, WorkerFacts
from edgeserve.plan.partition import Problem, closest_cut, partition

MIN_KV_TOKENS = 512
"""A plan leaves room for this many tokens: one short question with its answer. With less, a cluster
would start and then refuse nearly everything."""
MAX_RUNNING = 64
"""Sequences at once, unless told otherwise."""
CHUNK_ALONE, CHUNK_BESIDE = 512, 64
"""Prompt tokens in one frame. Where one processor computes all stages, larger ones are read faster.
Where stages compute beside each other, the last ones wait for the first chunk to reach them, so it
is small: an RTX 3060 takes as long to read its weights as to compute 64 tokens."""


def make_plan(
    spec: ModelSpec,
    dtype: Dtype,
    workers: Sequence[WorkerFacts],
    *,
    pages_max: int,
    layers: tuple[int, ...] = (),
    frame_tokens_max: int = 0,
) -> Plan:
    """The best cut over the workers, in their order; more pages than `pages_max` are of no use.
    Frames are as long as a gateway makes them by itself, unless `frame_tokens_max` is given.

    `layers` of each stage, if given, are the cut. Raises BadRequest if they are not the model's or
    there are more workers than layers, and DoesNotFit.
    """
    _check_counts(spec, workers)
    wanted = min(MIN_KV_TOKENS, spec.context_tokens, pages_max * PAGE_TOKENS)
    frame_tokens = frame_tokens_max or default_frame_tokens(len(workers))
    problem = Problem(
        spec=spec, dtype=dtype, workers=tuple(workers), min_tokens=wanted,
        frame_tokens_max=frame_tokens,
    )  # fmt: skip
    _check_layers(problem, layers)
    counts = layers or partition(problem) or closest_cut(problem)
    if any(_missing_bytes(problem, counts)):
        raise _does_not_fit(problem, counts)
    stages = _stage_plans(problem, counts)
    pages = min(pages_max, *(each.pages_fit for each in stages))
    return Plan(spec=spec, dtype=dtype, stages=stages, pages=pages, frame_tokens_max=frame_tokens)


def default_pages_max(spec: ModelSpec, max_running: int) -> int:
    """All that can be in use: every running sequence is as long as the model reads."""
    return max_running * math.ceil(spec.context_tokens / PAGE_TOKENS)


def default_frame_tokens(workers: int) -> int:
    """A chunk of a prompt, and one token of each running sequence."""
    return (CHUNK_ALONE if workers == 1 else CHUNK_BESIDE) + MAX_RUNNING


def _check_counts(spec: ModelSpec, workers: Sequence[WorkerFacts]) -> None:
    if not workers:
        raise BadRequest("a plan needs at least one worker")
    if len(workers) > spec.layers:
        raise BadRequest(
            f"there are {len(workers)} workers, but the model has {spec.layers} layers and each "
            f"worker holds at least one; leave out {len(workers) - spec.layers} workers",
            workers=len(workers),
            layers=spec.layers,
        )


def _check_layers(problem: Problem, layers: tuple[int, ...]) -> None:
    wanted, workers = problem.spec.layers, len(problem.workers)
    if layers and (sum(layers) != wanted or len(layers) != workers or min(layers) < 1):
        raise BadRequest(
            f"--layers {','.join(map(str, layers))} are {sum(layers)} layers on {len(layers)} "
            f"stages, but the model has {wanted} layers and there are {workers} workers, each of "
            "which holds at least one"
        )


def _stage_plans(problem: Problem, counts: tuple[int, ...]) -> tuple[StagePlan, ...]:
    return tuple(
        StagePlan(
            stage=stage,
            worker=problem.workers[i].name,
            slice_bytes=problem.slice_bytes(i, counts[i]),
            reserve_bytes=problem.reserve_bytes(i, counts[i]),
            free_bytes=problem.free_bytes(i, counts[i]),
            page_bytes=problem.page_bytes(counts[i]),
        )
        for i, stage in enumerate(cut(counts))
    )


# -- what does not fit


def _missing_bytes(problem: Problem, counts: tuple[int, ...]) -> list[int]:
    return [problem.missing_bytes(i, count) for i, count in enumerate(counts)]


def _does_not_fit(problem: Problem, counts: tuple[int, ...]) -> DoesNotFit:
    lacks = _missing_bytes(problem, counts)
    stages = [
        {
            "stage": i,
            "worker": problem.workers[i].name,
            "layers": [stage.layers.start, stage.layers.end],
            "needed_bytes": problem.needed_bytes(i, counts[i]),
            "memory_bytes": problem.workers[i].memory_bytes,
        }
        for i, stage in enumerate(cut(counts))
        if lacks[i]
    ]
    return DoesNotFit(
        f"the model in {problem.dtype} does not fit: the workers lack {amount(sum(lacks))} in all. "
        f"Cut as {_cut_text(counts)}, {_worst_stage(problem, counts, lacks)}. {_cures(problem)}",
        missing_bytes=sum(lacks),
        stages=stages,
        more_workers=_more_workers(problem),
    )


def _worst_stage(problem: Problem, counts: tuple[int, ...], lacks: Sequence[int]) -> str:
    worst = lacks.index(max(lacks))
    stage, facts, count = cut(counts)[worst], problem.workers[worst], counts[worst]
    slice_bytes = problem.slice_bytes(worst, count)
    needed, reserve_bytes = problem.needed_bytes(worst, count), problem.reserve_bytes(worst, count)
    rest = (
        f"rounding the weights to {problem.dtype} while they are loaded"
        if problem.loading_decides(worst, count)
        else f"{problem.min_tokens} tokens of keys and values"
    )
    return (
        f"stage {worst} on {facts.name} ({stage}) needs {amount(needed)} ("
        f"weights {amount(slice_bytes)}, reserve {amount(reserve_bytes)}, "
        f"{rest} {amount(needed - slice_bytes - reserve_bytes)}), and has "
        f"{amount(facts.memory_bytes)}"
    )


def _cures(problem: Problem) -> str:
    fitting = partition(problem)
    if fitting:
        return f"What would help: the cut {_cut_text(fitting)}, which fits"
    useless = [facts for i, facts in enumerate(problem.workers) if not problem.layers_fit(i)]
    useful = tuple(each for each in problem.workers if each not in useless)
    if not useful:
        largest = amount(_largest(problem).memory_bytes)
        return f"More such workers would not help: {largest} is too little"
    smaller = replace(problem, workers=useful)
    cures = [*_more(smaller), *_smaller_dtype(smaller)]
    if not useless:
        return f"What would help: {', or '.join(cures) or 'a smaller model'}"
    names = ", ".join(each.name for each in useless)
    return f"Leave out {names} (no room for one layer)" + "".join(
        [] if partition(smaller) else [f", and add: {', or '.join(cures) or 'larger workers'}"]
    )


def _more(problem: Problem) -> list[str]:
    more = _more_workers(problem)
    if not more:
        return []
    noun = "worker" if more == 1 else "workers"
    return [f"{more} more {noun} of {amount(_largest(problem).memory_bytes)}"]


def _smaller_dtype(problem: Problem) -> list[str]:
    fits = problem.dtype is Dtype.FP32 and partition(replace(problem, dtype=Dtype.FP16))
    return ["fp16 or bf16 in place of fp32"] if fits else []


def _more_workers(problem: Problem) -> int | None:
    """How many copies of the largest worker, at the end, make it fit; None if no number does."""
    extended = replace(problem, workers=problem.workers + (_largest(problem),) * 2)
    *held, middle, end = (extended.layers_fit(i) for i in range(len(extended.workers)))
    if min(*held, middle, end) == 0:
        return None
    more = 1 + max(0, math.ceil((problem.spec.layers - sum(held) - end) / middle))
    return more if len(problem.workers) + more <= problem.spec.layers else None


def _largest(problem: Problem) -> WorkerFacts:
    return max(problem.workers, key=lambda each: each.memory_bytes - each.reserve_bytes)


def _cut_text(counts: tuple[int, ...]) -> str:
    return "/".join(map(str, counts))
