"""Stages that get slower and recover, in made-up stories of steps."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from edgeserve.timing.straggler import (
    BLOCK_FRAMES,
    BLOCK_S,
    BLOCKS_KEPT,
    BLOCKS_MIN,
    Stragglers,
    size_class,
)

STEP_S = 0.08
NORMAL_S = (0.028, 0.029, 0.027)


@dataclass
class Story:
    """Three stages, step by step; times jitter by 3 %."""

    stragglers: Stragglers = field(default_factory=lambda: Stragglers(3))
    now_s: float = 100.0
    draw: random.Random = field(default_factory=lambda: random.Random(0))

    def runs(
        self, blocks: float, factors: tuple[float, float, float] = (1, 1, 1), tokens: int = 8
    ) -> list[int]:
        """The stages that straggle after so many blocks, each taking `factors` of its time."""
        for _ in range(round(blocks * BLOCK_FRAMES)):
            self.step(factors, tokens)
        return self.straggling

    def step(self, factors: tuple[float, ...], tokens: int = 8) -> None:
        self.now_s += STEP_S
        times = zip(NORMAL_S, factors, strict=True)
        compute_s = [own * factor * self.draw.uniform(0.97, 1.03) for own, factor in times]
        self.stragglers.measured(tokens, compute_s, self.now_s)

    @property
    def straggling(self) -> list[int]:
        return [stage for stage, found in enumerate(self.stragglers.now) if found]


def test_heat_that_comes_and_goes_is_flagged_while_it_lasts() -> None:
    story = Story()
    assert story.runs(10) == []
    came_s = story.now_s
    assert story.runs(2, (1, 1.24, 1)) == [1]
    found = story.stragglers.now[1]
    assert found is not None
    assert found.slowdown == pytest.approx(0.24, abs=0.02)
    assert 0 < found.since_s - came_s <= BLOCK_FRAMES * STEP_S + 1e-6
    #      noticed with the first whole block

    assert story.runs(200, (1, 1.3, 1)) == [1]
    later = story.stragglers.now[1]
    assert later is not None
    assert later.slowdown == pytest.approx(0.3, abs=0.02)
    #      heat for far longer than the median's memory does not become normal
    assert later.since_s == found.since_s

    assert story.runs(1) == []


def test_outliers_flag_nobody() -> None:
    story = Story()
    story.runs(10)
    for _ in range(20):
        story.step((1, 40, 1))
        #      as when a process is swapped in: one step of a second
        assert story.runs(1) == []
    for _ in range(6 * BLOCK_FRAMES):
        story.step((1, 1.5 if story.draw.random() < 0.25 else 1, 1))
        #      and a quarter of the frames
    assert story.straggling == []


def test_a_stage_at_the_threshold_does_not_come_and_go() -> None:
    story = Story()
    story.runs(10)
    assert story.runs(4, (1, 1, 1.11)) == []
    #      not yet worth a word
    assert story.runs(1, (1, 1, 1.25)) == [2]
    assert story.runs(4, (1, 1, 1.11)) == [2]
    #      the same 11 %, but it has not recovered either
    assert story.runs(1, (1, 1, 1.03)) == []


def test_what_slows_all_stages_alike_is_nobodys_fault() -> None:
    story = Story()
    story.runs(10)
    assert story.runs(5, (1.5, 1.5, 1.5)) == []
    assert story.runs(5, (1.5, 1.9, 1.5)) == [1]
    found = story.stragglers.now[1]
    assert found is not None
    assert found.slowdown == pytest.approx(1.9 / 1.5 - 1, abs=0.1)


def test_that_the_others_get_faster_makes_no_straggler() -> None:
    story = Story()
    story.runs(10)
    assert story.runs(5, (0.5, 1.0, 0.5)) == []


def test_a_lone_stage_is_compared_with_itself() -> None:
    stragglers = Stragglers(1)
    for step in range(20 * BLOCK_FRAMES):
        stragglers.measured(1, [0.02 if step < 10 * BLOCK_FRAMES else 0.025], step * 0.02)
    (found,) = stragglers.now
    assert found is not None
    assert found.slowdown == pytest.approx(0.25)


def test_frames_of_another_size_are_not_compared() -> None:
    story = Story()
    for _ in range(12):
        assert story.runs(1, (1, 1, 1), tokens=8) == []
        assert story.runs(1, (3, 4, 5), tokens=128) == []
    assert story.runs(1, (3, 4.9, 5), tokens=130) == [1]
    #      among frames of its own size


def test_nothing_is_said_before_there_is_something_to_compare_with() -> None:
    story = Story()
    assert story.runs(BLOCKS_MIN, (1, 9, 1)) == []


def test_frames_of_long_ago_say_nothing_about_now() -> None:
    story = Story()
    story.runs(10)
    story.runs(0.9, (1, 2, 1))
    story.now_s += BLOCK_S
    assert story.runs(0.9) == []
    #      would be a block, most of it slow, if the pause did not count
    assert story.runs(0.1) == []


def test_recent_times_are_the_medians_of_the_last_block() -> None:
    story = Story()
    assert story.stragglers.recent_s == ()
    story.runs(3, (1, 2, 1))
    expected = pytest.approx((0.028, 0.058, 0.027), rel=0.02)
    assert story.stragglers.recent_s == expected


@pytest.mark.parametrize(
    ("tokens", "same_as"), [(1, 1), (15, 15), (16, 16), (17, 16), (63, 60), (64, 64), (71, 64)]
)
def test_sizes_of_a_class_differ_by_an_eighth_at_most(tokens: int, same_as: int) -> None:
    assert size_class(tokens) == same_as
    assert size_class(same_as) == same_as


def test_memory_is_bounded() -> None:
    stragglers = Stragglers(2)
    for step in range(3 * BLOCKS_KEPT * BLOCK_FRAMES):
        stragglers.measured(4, (0.01, 0.01), step * 0.01)
    (known,) = stragglers._classes.values()
    assert [len(each) for each in known.medians] == [BLOCKS_KEPT] * 2
    assert len(known.block) < BLOCK_FRAMES
    assert len({size_class(tokens) for tokens in range(1, 10_000)}) < 100
