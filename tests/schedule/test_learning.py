"""What is learned from frames that came back: step times, micro-batches, shares of prompts."""

from __future__ import annotations

from itertools import pairwise

import pytest

from edgeserve.schedule.grouping import PATIENCE, Grouping, cycle_s
from edgeserve.schedule.prompt_share import PromptShare
from edgeserve.schedule.step_times import StepTimes


def _times(by_tokens: dict[int, float], stages: int = 3, hops_s: float = 0.0) -> StepTimes:
    """Each stage takes so long for so many tokens."""
    times = StepTimes()
    for tokens, stage_s in by_tokens.items():
        times.learn(tokens, [stage_s] * stages, hops_s)
    return times


# -- step times


def test_times_between_two_measured_sizes_are_interpolated_and_flat_beyond() -> None:
    times = _times({4: 0.010, 8: 0.020}, hops_s=0.003)
    totals = [times.of(tokens) for tokens in (1, 4, 6, 8, 99)]
    assert [round(each.total_s, 6) for each in totals if each] == [
        0.033, 0.033, 0.048, 0.063, 0.063,
    ]  # fmt: skip
    assert StepTimes().of(1) is None


def test_the_slowest_stage_is_told_apart_from_their_sum() -> None:
    times = StepTimes()
    times.learn(1, [0.01, 0.04, 0.02], 0.0)
    time = times.of(1)
    assert time is not None
    assert time.compute_s == pytest.approx(0.07)
    assert time.slowest_s == 0.04


def test_a_time_follows_what_is_measured_and_not_one_outlier() -> None:
    times = _times({1: 0.010}, stages=1)
    times.learn(1, [0.110], 0.0)
    outlier = times.of(1)
    assert outlier is not None
    assert outlier.total_s == pytest.approx(0.030)
    for _ in range(30):
        times.learn(1, [0.050], 0.0)
    settled = times.of(1)
    assert settled is not None
    assert settled.total_s == pytest.approx(0.050, rel=0.01)


def test_drafts_are_worth_it_while_they_cost_little() -> None:
    assert StepTimes().worth(1, most=9) == 9
    #      nothing is known: the first attempt will tell
    assert _times({1: 0.029, 16: 0.029}).worth(1, most=16) == 16
    #      a stage that reads weights has time for more tokens
    assert _times({1: 0.001, 16: 0.016}).worth(1, most=16) == 1
    #      one that computes has not
    assert _times({8: 0.029, 64: 0.029, 65: 0.290}).worth(8, most=99) == 64


# -- micro-batches


def test_a_cycle_is_bound_by_the_whole_lap_or_by_the_slowest_stage() -> None:
    times = _times({8: 0.010, 24: 0.024}, hops_s=0.006)
    assert cycle_s(24, 1, 3, times) == pytest.approx(3 * 0.024 + 0.006)
    assert cycle_s(24, 3, 3, times) == pytest.approx(3 * 0.010 + 0.006)
    slow_links = _times({8: 0.010}, hops_s=0.100)
    assert cycle_s(24, 3, 3, slow_links) == pytest.approx(0.130)


def test_stages_that_share_a_processor_gain_nothing_from_micro_batches() -> None:
    times = _times({8: 0.010, 24: 0.024}, hops_s=0.006)
    assert cycle_s(24, 3, 1, times) == pytest.approx(3 * 3 * 0.010)
    grouping = Grouping(None, processors=1, stages=3)
    _steps(grouping, times, 3 * PATIENCE)
    assert grouping.micro_batches == 1


def _steps(grouping: Grouping, times: StepTimes, count: int, sequences: int = 24) -> None:
    for _ in range(count):
        grouping.step(sequences, times)


def test_one_micro_batch_serves_while_time_hardly_depends_on_the_batch() -> None:
    grouping = Grouping(None, processors=3, stages=3)
    _steps(grouping, _times({8: 0.0287, 24: 0.0290}, hops_s=0.004), 10 * PATIENCE)
    assert grouping.micro_batches == 1


def test_where_time_grows_with_the_batch_each_stage_gets_a_micro_batch() -> None:
    grouping = Grouping(None, processors=3, stages=3)
    times = _times({8: 0.035, 24: 0.049}, hops_s=0.004)
    _steps(grouping, times, PATIENCE - 1)
    assert grouping.micro_batches == 1
    #      not at once: a few slow frames are no reason
    _steps(grouping, times, 1)
    assert grouping.micro_batches == 3
    _steps(grouping, times, 100)
    assert grouping.micro_batches == 3


def test_a_promise_that_was_not_kept_is_undone_and_the_next_attempt_comes_later() -> None:
    """Stages that share their cores are not faster side by side."""
    grouping, changes = Grouping(None, processors=3, stages=3), []
    alone = _times({8: 0.030, 24: 0.050})
    together = _times({8: 0.090, 24: 0.050})
    for step in range(400):
        before = grouping.micro_batches
        grouping.step(24, alone if before == 1 else together)
        if grouping.micro_batches != before:
            changes.append(step)
    waits = [later - earlier for earlier, later in pairwise(changes)]
    assert len(waits) >= 2
    assert all(later >= 2 * earlier for earlier, later in pairwise(waits))


def test_a_fixed_number_of_micro_batches_stays() -> None:
    grouping = Grouping(2, processors=3, stages=3)
    _steps(grouping, _times({8: 0.01, 24: 0.1}), 10 * PATIENCE)
    assert (grouping.micro_batches, grouping.is_fixed) == (2, True)


# -- prompts beside decodes


def _share(frames: int = 3) -> PromptShare:
    return PromptShare(frames=frames, chunk_max=128, slowdown_max=1.6)


def test_every_frame_gets_a_small_chunk_at_first() -> None:
    assert _share().chunk(carries_decodes=True) == 64
    assert _share().chunk(carries_decodes=False) == 64


def test_a_share_grows_while_decodes_are_within_the_bound_and_shrinks_beyond() -> None:
    """A cluster whose step takes a third longer for every 64 tokens in each frame."""
    share = _share()
    slowdowns = []
    for _ in range(60):
        slowdowns.append(1 + share.chunk(carries_decodes=True) / 192)
        share.learn(slowdowns[-1], had_full_share=True)
    assert max(slowdowns) < 1.7
    assert sum(slowdowns[20:]) / 40 == pytest.approx(1.6, abs=0.03)
    #      it ends up where the bound is, and not far below


def test_a_share_that_nobody_used_does_not_grow() -> None:
    share = _share()
    for _ in range(50):
        share.learn(1.0, had_full_share=False)
    assert share.chunk(carries_decodes=True) == 64


def test_on_a_box_that_is_slow_anyway_a_prompt_rides_with_the_decodes_alone() -> None:
    share = _share()
    for _ in range(20):
        share.learn(5.0, had_full_share=True)
    assert share.chunk(carries_decodes=True) == 8
    #      it never stops: prompts do not starve
    assert share.chunk(carries_decodes=False) == 0


def test_no_chunk_is_larger_than_a_frame_allows() -> None:
    share = _share(frames=2)
    for _ in range(50):
        share.learn(1.0, had_full_share=True)
    assert share.chunk(carries_decodes=True) == 128
