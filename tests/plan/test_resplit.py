"""A better cut at the speeds that stages show, where there is one."""

from __future__ import annotations

import pytest

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.plan.facts import Plan, WorkerFacts
from edgeserve.plan.planner import make_plan
from edgeserve.plan.resplit import better_layers

GB = 10**9
EVEN = 300e9  # bytes/s


def boxes(memory_bytes: float = 12 * GB) -> list[WorkerFacts]:
    return [
        WorkerFacts(name=f"box-{i}", memory_bytes=int(memory_bytes), reserve_bytes=6 * 10**8)
        for i in range(3)
    ]


def plan_13b(facts: list[WorkerFacts]) -> Plan:
    plan = make_plan(SHAPES["llama-2-13b"], Dtype.FP16, facts, pages_max=10_000)
    assert plan.layer_counts == (13, 14, 13)
    return plan


def takes(plan: Plan, *speeds: float) -> list[float]:
    """What a frame takes on each stage that reads so many bytes a second."""
    read_bytes = [plan.spec.read_bytes(each.stage, plan.dtype) for each in plan.stages]
    return [read / speed for read, speed in zip(read_bytes, speeds, strict=True)]


def test_a_stage_that_slows_down_gives_layers_to_the_others() -> None:
    plan = plan_13b(boxes())
    hot = takes(plan, EVEN, EVEN / 1.25, EVEN)
    assert better_layers(plan, boxes(), hot) == (14, 12, 14)
    #      14 layers of a stage now cost 17.5; 12 cost 15, and no other stage has more


def test_stages_that_are_as_fast_as_planned_stay_as_they_are() -> None:
    plan = plan_13b(boxes())
    assert better_layers(plan, boxes(), takes(plan, EVEN, EVEN, EVEN)) is None


def test_a_gain_within_what_measuring_errs_is_none() -> None:
    plan = plan_13b(boxes())
    assert better_layers(plan, boxes(), takes(plan, EVEN, EVEN * 0.995, EVEN)) is None


def test_memory_may_leave_no_other_cut() -> None:
    tight = boxes(9.8 * GB)
    plan = plan_13b(tight)
    hot = takes(plan, EVEN, EVEN / 1.25, EVEN)
    assert better_layers(plan, tight, hot) is None


@pytest.mark.parametrize("compute_s", [(), (0.0, 0.03, 0.03)])
def test_without_times_there_is_nothing_to_say(compute_s: tuple[float, ...]) -> None:
    assert better_layers(plan_13b(boxes()), boxes(), compute_s) is None
