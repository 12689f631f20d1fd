"""What rides in which frame: micro-batches, drafts, shared beginnings, prompts beside decodes."""

from __future__ import annotations

import pytest

from edgeserve.schedule.events import News, Send
from tests.schedule.story import Story, shown

# -- micro-batches


def test_one_micro_batch_holds_all_decodes() -> None:
    story = Story(stages=3, micro_batches=1)
    for name in "abc":
        story.arrive(name, prompt=1, new=9)
    assert [story.land() for _ in range(3)] == [["a@1"], [], []]
    #      b and c have their first token while a's decode is under way: they wait for its frame
    assert story.land() == ["b@1 c@1 a@2"]
    #      those that waited longest stand in front
    assert len(story.under_way) == 1


@pytest.mark.parametrize("groups", [2, 3])
def test_micro_batches_are_balanced_and_each_has_one_frame_under_way(groups: int) -> None:
    story = Story(stages=groups, micro_batches=groups, chunk=64)
    for name in "abcdefg":
        story.arrive(name, prompt=1, new=99)
    for _ in range(4 * groups):
        story.land()
        riders = [s.sequence for it in story.under_way for s in it.segments]
        assert len(riders) == len(set(riders))
        #      nobody decodes in two frames at once
    sizes = sorted(len(it.segments) for it in story.under_way)
    assert len(sizes) == groups
    assert sum(sizes) == 7
    assert sizes[-1] - sizes[0] <= 1


def test_micro_batches_that_have_become_unequal_are_made_equal() -> None:
    story = Story(stages=2, micro_batches=2)
    for name in "abcd":
        story.arrive(name, prompt=1, new=99)
    for _ in range(4):
        story.land()
    assert [shown(Send(micro_batch=it)) for it in story.under_way] == ["a@2 c@1", "d@1 b@2"]
    story.cancel("b")
    story.cancel("d")
    assert story.land() == ["-b -d a@3"]
    #      a and c are all that is left: c waits for the other frame's place
    assert story.land() == ["c@2"]
    story.arrive("e", prompt=1, new=99)
    assert story.land() == ["+e a@4 e[0:1)!"]
    assert story.land() == ["c@3"]
    assert story.land() == ["a@5 e@1"]


def test_where_larger_batches_take_longer_the_decodes_are_spread_over_the_stages() -> None:
    story = Story(stages=3, micro_batches=None, chunk=64)
    for name in "abcdef":
        story.arrive(name, prompt=1, new=150)
        for _ in range(12):
            story.land(stage_s=0.01 * len(story.under_way[0].segments))
    for _ in range(30):
        story.land(stage_s=0.01 * len(story.under_way[0].segments))
    assert sorted(len(it.segments) for it in story.under_way) == [2, 2, 2]
    assert story.scheduler.statistics().micro_batches == 3


# -- drafts


def test_a_decode_tries_the_drafts_that_the_gateway_has() -> None:
    story = Story()
    story.arrive("a", prompt=4, new=20)
    assert story.land(a=News(drafts=3)) == ["a@4+3"]
    assert story.land(a=News(tokens=3, drafts=2)) == ["a@7+2"]
    #      two drafts and the token behind them came true: the third is computed again
    assert story.land(a=News(tokens=3)) == ["a@10"]
    assert story.land(a=News(tokens=1, drafts=1)) == ["a@11+1"]


def test_drafts_never_reach_beyond_what_was_reserved() -> None:
    story = Story(chunk=16, max_running=2)
    story.arrive("a", prompt=4, new=99)
    story.land()
    story.arrive("b", prompt=160, new=2)
    assert story.land(a=News(drafts=16)) == ["+b a@5+16 b[0:1)"]
    #      18 tokens is all that the stages were told to expect
    assert story.under_way[0].tokens == story.scheduler.limits.frame_tokens_max


def test_drafts_are_shared_out_evenly() -> None:
    story = Story(chunk=8, max_running=2)
    for name in "ab":
        story.arrive(name, prompt=1, new=99)
    story.land()
    story.land()
    assert story.land(a=News(drafts=16), b=News(drafts=16)) == ["a@3+4 b@2+4"]
    assert story.land(a=News(drafts=1), b=News(drafts=16)) == ["a@4+1 b@3+7"]
    #      what one does not need, the other gets


def test_drafts_that_would_cost_more_than_they_bring_are_left_out() -> None:
    story = Story(chunk=64)
    story.arrive("a", prompt=1, new=99)
    story.land()
    assert story.land(stage_s=0.010, a=News(drafts=8)) == ["a@2+8"]
    #      what it costs is not known yet
    assert story.land(stage_s=0.090, a=News(drafts=8)) == ["a@3"]


# -- shared beginnings


def test_a_prompt_that_begins_alike_is_computed_from_where_it_differs() -> None:
    story = Story(chunk=64)
    story.arrive("a", prompt=40, new=2, pages="XY")
    story.land()
    assert story.arrive("b", prompt=40, new=2, pages="XY") == ["admit b after 0 s, 32 cached"]
    assert story.land() == ["finish a: length", "-a +b b[32:40)!"]


def test_of_a_prompt_that_is_known_whole_the_last_page_is_computed_again() -> None:
    story = Story(chunk=64)
    story.arrive("a", prompt=32, new=1, pages="XY")
    story.land()
    assert story.arrive("b", prompt=32, new=1, pages="XY") == [
        "admit b after 0 s, 16 cached",
        "-a +b b[16:32)!",
    ]
    #      an answer needs at least one token to come from


def test_an_answer_is_shared_with_the_prompt_that_continues_it() -> None:
    story = Story(chunk=64)
    story.arrive("a", prompt=16, new=40, pages="X")
    story.land()
    for _ in range(15):
        story.land()
    assert story.land(a=News(page_hashes=(b"XY",))) != []
    story.cancel("a")
    story.land()
    assert story.arrive("b", prompt=50, new=2, pages="XYZ") == [
        "admit b after 0 s, 32 cached",
        "-a +b b[32:50)!",
    ]


def test_nothing_is_shared_before_it_is_computed_nor_after_a_stage_was_lost() -> None:
    story = Story(chunk=64)
    story.arrive("a", prompt=40, new=2, pages="XY")
    assert story.arrive("b", prompt=40, new=2, pages="XY") == ["admit b after 0 s"]
    story.land()
    story.lose()
    story.back()
    assert story.arrive("c", prompt=40, new=2, pages="XY")[0] == "admit c after 0 s"


def test_without_a_prefix_cache_nothing_is_shared() -> None:
    story = Story(chunk=64, prefix_cache=False)
    story.arrive("a", prompt=40, new=1, pages="XY")
    story.land()
    assert story.arrive("b", prompt=40, new=1, pages="XY")[0] == "admit b after 0 s"


# -- prompts beside decodes


def test_a_prompt_beside_decodes_is_cut_smaller_if_it_slows_them_down() -> None:
    story = Story(stages=1, chunk=64)
    story.arrive("a", prompt=1, new=99)
    for _ in range(5):
        story.land(stage_s=0.010)
    story.arrive("b", prompt=500, new=2)
    story.land(stage_s=0.010)
    (frame,) = story.under_way
    assert frame.tokens == 1 + 64
    for _ in range(12):
        story.land(stage_s=0.010 + 0.001 * (story.under_way[0].tokens - 1))
    (frame,) = story.under_way
    assert 5 <= frame.tokens - 1 <= 8
    #      6 tokens make a step 1.6 times as long
    assert story.scheduler.statistics().prompt_share == 8


def test_a_prompt_that_nobody_waits_for_is_cut_as_large_as_frames_allow() -> None:
    story = Story(stages=1, chunk=64)
    story.arrive("b", prompt=500, new=2)
    assert story.under_way[0].tokens == 64
