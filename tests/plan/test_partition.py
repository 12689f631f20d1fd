"""The exact partition against brute force, and the cuts that its objectives are there for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec, Rotary
from edgeserve.frames.stage import cut
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.partition import (
    Problem,
    best_cut,
    closest_cut,
    partition,
    relative_slowness,
)

GB = 10**9
LLAMA_2_13B = ModelSpec(
    family="llama",
    layers=40,
    hidden=5120,
    heads=40,
    kv_heads=40,
    head_dim=128,
    ffn_hidden=13824,
    vocab=32000,
    context_tokens=4096,
    norm_eps=1e-5,
    positions=Rotary(dims=128, theta=10000.0),
)


def workers(*memory_bytes: int, speeds: tuple[float, ...] = ()) -> tuple[WorkerFacts, ...]:
    return tuple(
        WorkerFacts(
            name=f"worker {i}",
            memory_bytes=memory,
            reserve_bytes=600 * 10**6,
            read_bytes_per_s=speeds[i] if speeds else 0.0,
        )
        for i, memory in enumerate(memory_bytes)
    )


def problem_13b(*facts: WorkerFacts, dtype: Dtype = Dtype.FP16) -> Problem:
    return Problem(spec=LLAMA_2_13B, dtype=dtype, workers=facts, min_tokens=512)


# -- known cuts


def test_three_equal_boxes_get_the_shorter_ends_beside_embedding_and_head() -> None:
    assert partition(problem_13b(*workers(*[12 * GB] * 3))) == (13, 14, 13)


def test_embedding_and_head_count_as_memory() -> None:
    # 14/13/13 is as fast, and leaves room for fewer tokens: the embedding is on the first worker.
    problem = problem_13b(*workers(*[12 * GB] * 3))

    assert problem.pages_fit(0, 14) < problem.pages_fit(1, 14)


def test_a_small_box_holds_less_and_the_others_more() -> None:
    small_first = partition(problem_13b(*workers(6 * GB, 16 * GB, 16 * GB)))

    assert small_first == (7, 17, 16)


def test_a_box_with_half_the_bandwidth_holds_half_the_layers() -> None:
    facts = workers(*[24 * GB] * 3, speeds=(360e9, 180e9, 360e9))

    assert partition(problem_13b(*facts)) == (16, 8, 16)


def test_where_one_speed_is_unknown_all_count_as_equal() -> None:
    facts = workers(*[24 * GB] * 3, speeds=(360e9, 0.0, 720e9))
    unknown = workers(*[24 * GB] * 3)

    assert partition(problem_13b(*facts)) == partition(problem_13b(*unknown)) == (13, 14, 13)


def test_noise_in_the_measured_bandwidth_does_not_move_a_layer() -> None:
    facts = workers(*[12 * GB] * 3, speeds=(357.1e9, 363.9e9, 360.2e9))

    assert partition(problem_13b(*facts)) == (13, 14, 13)


def test_memory_comes_before_speed() -> None:
    """The fast box is too small for the layers that its speed asks for."""
    facts = workers(8 * GB, 24 * GB, 24 * GB, speeds=(900e9, 300e9, 300e9))
    counts = partition(problem_13b(*facts))

    assert counts is not None
    assert counts[0] == problem_13b(*facts).layers_fit(0) == 10


def test_one_worker_holds_everything() -> None:
    assert partition(problem_13b(*workers(40 * GB))) == (40,)


def test_a_layer_for_each_worker_is_the_only_cut_of_as_many_layers() -> None:
    spec = replace(LLAMA_2_13B, layers=4)
    problem = Problem(spec=spec, dtype=Dtype.FP16, workers=workers(*[9 * GB] * 4), min_tokens=16)

    assert partition(problem) == (1, 1, 1, 1)


def test_what_does_not_fit_has_no_cut() -> None:
    assert partition(problem_13b(*workers(12 * GB, 12 * GB))) is None
    assert partition(problem_13b(*workers(*[12 * GB] * 3), dtype=Dtype.FP32)) is None


def test_the_tokens_that_must_have_room_decide_whether_it_fits() -> None:
    problem = problem_13b(*workers(*[12 * GB] * 3))

    assert partition(replace(problem, min_tokens=8768)) == (13, 14, 13)
    assert partition(replace(problem, min_tokens=8768 + 1)) is None


def test_the_closest_cut_shares_what_is_missing() -> None:
    assert closest_cut(problem_13b(*workers(12 * GB, 12 * GB))) == (20, 20)


def test_forty_workers_and_a_hundred_layers_are_cut_all_the_same() -> None:
    problem = Problem(
        spec=replace(LLAMA_2_13B, layers=100),
        dtype=Dtype.FP16,
        workers=workers(*[4 * GB] * 40),
        min_tokens=16,
    )
    counts = partition(problem)

    assert counts is not None
    assert sum(counts) == 100
    assert max(counts) == 3


@pytest.mark.parametrize(
    ("speeds", "slowness"),
    [
        ([360e9, 360e9], (1, 1)),
        ([360e9, 180e9], (1, 2)),
        ([364e9, 357e9], (1, 1)),
        ([936e9, 360e9], (36, 94)),
        ([936e9, 0.0], (1, 1)),
    ],
)
def test_slowness_is_whole_numbers_of_rounded_speeds(
    speeds: list[float], slowness: tuple[int, ...]
) -> None:
    found = relative_slowness(speeds)

    assert Fraction(found[0], found[1]) == Fraction(*slowness)


# -- against brute force

SPECS = st.builds(
    lambda layers, kv_heads, vocab, head_tied: ModelSpec(
        family="llama",
        layers=layers,
        hidden=8,
        heads=2,
        kv_heads=kv_heads,
        head_dim=4,
        ffn_hidden=16,
        vocab=vocab,
        context_tokens=64,
        norm_eps=1e-5,
        positions=Rotary(dims=4, theta=10000.0),
        head_tied=head_tied,
    ),
    layers=st.integers(1, 8),
    kv_heads=st.sampled_from([1, 2]),
    vocab=st.sampled_from([8, 50, 200]),  # embedding and head: from small to several layers
    head_tied=st.booleans(),
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    spec = draw(SPECS)
    dtype = draw(st.sampled_from([Dtype.FP32, Dtype.FP16]))
    count = draw(st.integers(1, min(4, spec.layers)))
    # From too little for one layer to enough for all; a layer and its pages are about 2 KB.
    memory = st.one_of(st.integers(1_000, 30_000), st.just(60_000))
    speed = st.sampled_from([100.0, 101.0, 200.0, 370.0, 936.0])
    speeds = st.one_of(st.just([0.0] * count), st.lists(speed, min_size=count, max_size=count))
    drawn = draw(speeds)
    return Problem(
        spec=spec,
        dtype=dtype,
        workers=tuple(
            WorkerFacts(
                name=str(i),
                memory_bytes=draw(memory),
                reserve_bytes=draw(st.sampled_from([0, 500])),
                read_bytes_per_s=drawn[i],
            )
            for i in range(count)
        ),
        min_tokens=draw(st.sampled_from([1, 16, 64])),
    )


def every_cut(layers: int, parts: int) -> Iterator[tuple[int, ...]]:
    for inner in combinations(range(1, layers), parts - 1):
        ends = (0, *inner, layers)
        yield tuple(ends[i + 1] - ends[i] for i in range(parts))


Objectives = tuple[Fraction, int, Fraction, tuple[int, ...]]


def objectives(problem: Problem, counts: tuple[int, ...]) -> Objectives | None:
    """All four, the least is best; None if it does not fit. From the spec, not from `Problem`."""
    spec, size = problem.spec, problem.dtype.size_bytes
    known = all(each.read_bytes_per_s for each in problem.workers)
    times, pages = [], []
    for facts, stage in zip(problem.workers, cut(counts), strict=True):
        speed = int(float(f"{facts.read_bytes_per_s:.1e}")) if known else 1
        times.append(Fraction(spec.read_parameters(stage) * size, speed))
        free = facts.memory_bytes - facts.reserve_bytes - spec.stage_parameters(stage) * size
        page = spec.kv_bytes_per_token(len(stage.layers), problem.dtype) * PAGE_TOKENS
        pages.append(free // page)
    if min(pages) < math.ceil(problem.min_tokens / PAGE_TOKENS):
        return None
    return max(times), -min(pages), sum(times, Fraction(0)), counts


def best_by_brute_force(problem: Problem) -> Objectives | None:
    cuts = every_cut(problem.spec.layers, len(problem.workers))
    found = (objectives(problem, counts) for counts in cuts)
    return min((each for each in found if each is not None), default=None)


SLOW_LAST = Problem(
    spec=replace(LLAMA_2_13B, layers=8),
    dtype=Dtype.FP16,
    workers=workers(*[12 * GB] * 3, speeds=(370.0, 370.0, 100.0)),
    min_tokens=16,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(problem=problems())
@example(problem=SLOW_LAST)
def test_no_cut_is_better_than_the_one_chosen(problem: Problem) -> None:
    counts = partition(problem)
    best = best_by_brute_force(problem)

    assert (counts and objectives(problem, counts)) == best


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_the_closest_cut_is_the_one_that_lacks_least(problem: Problem) -> None:
    def lack(counts: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        missing = [problem.missing_bytes(i, count) for i, count in enumerate(counts)]
        return max(missing), sum(missing), counts

    cuts = every_cut(problem.spec.layers, len(problem.workers))

    assert closest_cut(problem) == min(cuts, key=lack)


@pytest.mark.slow
def test_the_drawn_problems_are_of_both_kinds() -> None:
    """Otherwise the property above would say little."""
    fits: list[bool] = []

    @settings(max_examples=100, deadline=None, database=None)
    @given(problem=problems())
    def collect(problem: Problem) -> None:
        fits.append(partition(problem) is not None)

    collect()

    assert sum(fits) > 10
    assert len(fits) - sum(fits) > 10


def test_costs_of_none_close_a_way() -> None:
    def cost(worker: int, count: int) -> int | None:
        return None if (worker, count) == (0, 2) else count * count

    assert best_cut(2, 4, lambda _, count: count * count, max) == 4
    assert best_cut(2, 4, cost, max) == 9
    assert best_cut(2, 4, lambda _worker, _count: None, max) is None
