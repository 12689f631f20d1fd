"""What the scheduler orders, as lists of steps to read. How they are written: see story.py."""

from __future__ import annotations

import pytest

from edgeserve.errors import Overloaded, Unprocessable
from tests.schedule.story import LOST, Story

# -- batches


def test_a_request_runs_from_its_prompt_to_its_last_token() -> None:
    story = Story()
    assert story.arrive("a", prompt=4, new=3) == ["admit a after 0 s", "+a a[0:4)!"]
    assert story.land() == ["a@4"]
    #                       the first token is at position 4; running it yields the second
    assert story.land() == ["a@5"]
    assert story.land() == ["finish a: length"]
    #                       three tokens; the last one is never run
    assert story.arrive("b", prompt=1, new=1) == ["admit b after 0 s", "-a +b b[0:1)!"]
    #                       that a is over rides in the next frame there is


def test_a_request_for_no_token_ends_with_its_prompt() -> None:
    story = Story(stages=2, chunk=16)
    assert story.arrive("a", prompt=20, new=0) == ["admit a after 0 s", "+a a[0:16)", "a[16:20)"]
    story.arrive("b", prompt=4, new=1)
    assert story.pages_in_use == 3
    assert story.land() == ["+b b[0:4)!"]
    assert story.land() == ["finish a: length"]
    assert story.pages_in_use == 1
    assert story.land() == ["finish b: length"]


def test_a_prompt_may_fill_the_context_if_no_token_is_to_follow() -> None:
    story = Story(context=32, pages=2)
    assert story.arrive("a", prompt=33, new=0) == ["reject a: Unprocessable"]
    assert story.arrive("b", prompt=32, new=0)[0] == "admit b after 0 s"


def test_a_refused_frame_fails_a_request_for_no_token() -> None:
    story = Story()
    story.arrive("a", prompt=4, new=0)
    assert story.refuse() == ["fail a: StageUnavailable"]
    assert story.pages_in_use == 0


def test_a_request_joins_a_running_batch_without_waiting_for_it_to_end() -> None:
    story = Story(max_running=2)
    steps = story.arrive("a", prompt=4, new=3) + story.arrive("b", prompt=4, new=2)
    steps += story.arrive("c", prompt=4, new=2)
    for _ in range(5):
        story.now_s += 1.0
        steps += story.land()
    assert steps == [
        "admit a after 0 s",
        "+a a[0:4)!",
        #    a is alone: it starts at once
        "admit b after 0 s",
        #    and has to wait for no more than the frame that is under way
        "+b a@4 b[0:4)!",
        #    b joins a; there is room for two, so c waits
        "a@5 b@4",
        "finish a: length",
        "finish b: length",
        "admit c after 3 s",
        "-a -b +c c[0:4)!",
        #    both are done, c takes a place
        "c@4",
        "finish c: length",
    ]


def test_a_stop_token_ends_a_request_early_and_the_length_ends_it_otherwise() -> None:
    story = Story()
    story.arrive("a", prompt=4, new=9)
    story.arrive("b", prompt=4, new=2)
    story.land()
    assert story.land(stopped="a") == ["finish a: eos_token", "-a b@4"]
    assert story.land(stopped="b") == ["finish b: eos_token"]
    #      a stop token that is also the last one allowed is a stop token all the same


def test_the_chunks_of_a_prompt_follow_one_another_without_waiting_for_answers() -> None:
    story = Story(stages=3, chunk=16)
    assert story.arrive("a", prompt=70, new=2) == [
        "admit a after 0 s",
        "+a a[0:16)",
        "a[16:32)",
        "a[32:48)",
        #    a frame for each stage
        "a[48:64)",
        #    and of full chunks another one, which arrives while the one before it is computed
    ]
    assert story.land() == []
    assert story.land() == ["a[64:70)!"]
    assert story.land() == []
    assert story.land() == []
    assert story.land() == ["a@70"]
    #      only a decode has to know the token before it


def test_prompts_share_a_chunk_in_the_order_of_admission() -> None:
    story = Story(chunk=16)
    story.arrive("a", prompt=4, new=9)
    story.land()
    story.arrive("b", prompt=20, new=9)
    story.arrive("c", prompt=9, new=9)
    assert story.land() == ["+b a@5 b[0:16)"]
    assert story.land() == ["+c a@6 b[16:20)! c[0:9)!"]
    #                        one chunk's worth of prompt, whosever it is
    assert story.land() == ["a@7 b@20 c@9"]


def test_a_decode_shares_its_frame_with_at_most_one_chunk_of_a_long_prompt() -> None:
    story = Story(stages=1, chunk=16)
    story.arrive("a", prompt=4, new=99)
    story.land()
    story.arrive("b", prompt=160, new=2)
    frames = [story.land() for _ in range(10)]
    assert frames[0] == ["+b a@5 b[0:16)"]
    assert frames[1:9] == [[f"a@{5 + i} b[{16 * i}:{16 * (i + 1)})"] for i in range(1, 9)]
    assert frames[9] == ["a@14 b[144:160)!"]


def test_no_frame_holds_more_tokens_than_the_stages_were_told() -> None:
    story = Story(chunk=16, max_running=4)
    for name in "abc":
        story.arrive(name, prompt=1, new=99)
    story.land()
    story.arrive("d", prompt=99, new=9)
    assert story.land() == ["+d a@2 b@1 c@1 d[0:16)"]
    assert story.under_way[0].tokens == 19
    assert story.scheduler.limits.frame_tokens_max == 20
    #      a chunk and a decode of each; one to spare, as d itself does not decode yet


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_decode_goes_into_the_very_next_frame_however_long_the_prompt_beside_it(
    stages: int,
) -> None:
    story = Story(stages=stages, chunk=16)
    story.arrive("a", prompt=4, new=99)
    story.land()
    story.arrive("b", prompt=800, new=2)
    decodes = 0
    for _ in range(20):
        landed = [segment.sequence for segment in story.under_way[0].segments]
        (ordered,) = story.land()
        assert ("a@" in ordered) == (ord("a") in landed)
        decodes += "a@" in ordered
    assert decodes >= 20 // stages


# -- admission


def test_admission_reserves_pages_for_prompt_and_answer_together() -> None:
    story = Story(pages=10)
    story.arrive("a", prompt=17, new=15)
    assert story.pages_in_use == 2
    #      32 tokens are two pages of 16
    story.arrive("b", prompt=17, new=16)
    assert story.pages_in_use == 5
    story.land()
    story.land(stopped="a")
    assert story.pages_in_use == 3
    #      what it had reserved and not used is free as well


def test_requests_are_admitted_in_the_order_of_their_arrival() -> None:
    story = Story(pages=4)
    story.arrive("a", prompt=32, new=1)
    assert story.arrive("b", prompt=17, new=15) == []
    #      2 pages; 1 is left
    assert story.arrive("c", prompt=4, new=4) == []
    #      1 page would be free, but b was here first and must not starve
    story.now_s = 2.0
    assert story.land() == []
    assert story.land() == [
        "finish a: length",
        "admit b after 2 s",
        "admit c after 2 s",
        "-a +b b[0:16)",
    ]


@pytest.mark.parametrize(
    ("pages", "prompt", "new", "too_many", "why"),
    [
        (999, 4100, 1, 5, "this model reads at most 4096"),
        (256, 4000, 97, 1, "this model reads at most 4096"),
        (128, 2000, 100, 52, "the cluster's pages hold 2048 in all"),
        (128, 4100, 100, 2152, "the cluster's pages hold 2048 in all"),
        #    too long for both: told by the limit that is tighter
    ],
)
def test_what_can_never_fit_is_refused_with_the_arithmetic(
    pages: int, prompt: int, new: int, too_many: int, why: str
) -> None:
    story = Story(pages=pages, context=4096)
    assert story.arrive("a", prompt=prompt, new=new) == ["reject a: Unprocessable"]
    error = story.errors["a"]
    assert isinstance(error, Unprocessable)
    assert error.numbers == {
        "prompt_tokens": prompt,
        "max_new_tokens": new,
        "context_tokens": 4096,
        "kv_tokens": pages * 16,
    }
    assert str(error) == (
        f"the prompt has {prompt} tokens and max_new_tokens is {new}, but {why}; shorten them by "
        f"{too_many} tokens"
    )
    assert story.arrive("b", prompt=prompt - too_many, new=new)[0] == "admit b after 0 s"
    #      the advice is enough, and not more than enough:
    assert story.arrive("c", prompt=prompt - too_many + 1, new=new) == ["reject c: Unprocessable"]


def test_a_full_queue_refuses_with_numbers_and_says_when_to_come_again() -> None:
    story = Story(pages=4, max_waiting=2)
    story.arrive("a", prompt=60, new=4)
    story.arrive("b", prompt=60, new=4)
    story.arrive("c", prompt=4, new=4)
    assert story.arrive("d", prompt=4, new=4) == ["reject d: Overloaded"]
    error = story.errors["d"]
    assert isinstance(error, Overloaded)
    assert error.numbers == {
        "retry_after_s": 3,
        #    as long as a request takes (at first: 1 s), times the 3 that would be waiting
        "running": 1,
        "waiting": 2,
        "pages_in_use": 4,
        "pages_total": 4,
    }
    assert error.retry_after_s == 3
    assert "4 of 4 pages" in str(error)
    assert story.arrive("e", prompt=999, new=999) == ["reject e: Unprocessable"]
    #      what can never fit is told so, not to come again


def test_how_long_to_wait_is_learnt_from_the_requests_that_ended() -> None:
    story = Story(pages=4, max_waiting=1)
    story.arrive("a", prompt=16, new=1)
    story.now_s = 11.0
    story.land()
    #      1 s was the guess, 11 s it took; a fifth of the news counts: 3 s
    story.arrive("b", prompt=60, new=4)
    story.arrive("c", prompt=60, new=4)
    story.arrive("d", prompt=60, new=4)
    assert story.errors["d"].numbers["retry_after_s"] == 6


def test_waiting_has_an_end_even_when_nothing_else_happens() -> None:
    story = Story(pages=4)
    story.arrive("a", prompt=16, new=32)
    story.arrive("b", prompt=60, new=4)
    story.now_s = 20.0
    story.arrive("c", prompt=4, new=4)
    story.now_s = 30.0
    assert story.tick() == []
    story.now_s = 30.5
    assert story.tick() == ["reject b: Overloaded", "admit c after 10.5 s"]
    #      b held c back; without it there is a page for c
    assert "waited 30 s" in str(story.errors["b"])
    assert story.errors["b"].numbers["retry_after_s"] >= 1
    story.now_s = 100.0
    assert story.tick() == []
    #      who runs has no such bound


# -- cancelling


def test_a_waiting_request_that_is_cancelled_is_gone() -> None:
    story = Story(pages=2)
    story.arrive("a", prompt=16, new=16)
    story.arrive("b", prompt=16, new=16)
    assert story.cancel("b") == []
    story.land()
    assert story.land(stopped="a") == ["finish a: eos_token"]
    assert story.scheduler.statistics().waiting == 0


def test_a_request_cancelled_in_the_middle_of_its_prompt_frees_its_pages_at_once() -> None:
    story = Story(stages=2, pages=4)
    story.arrive("a", prompt=60, new=4)
    assert story.arrive("b", prompt=4, new=4) == []
    assert story.cancel("a") == ["admit b after 0 s"]
    assert story.pages_in_use == 1
    #      frames of a are still under way; b's come after them on every stage
    assert [story.land() for _ in range(3)] == [[], ["-a +b b[0:4)!"], []]
    #      a's late results concern nobody
    assert story.land() == ["b@4"]


def test_a_request_cancelled_while_its_decode_is_under_way_is_not_answered() -> None:
    story = Story()
    story.arrive("a", prompt=4, new=9)
    story.arrive("b", prompt=4, new=9)
    story.land()
    assert story.cancel("a") == []
    assert story.pages_in_use == 1
    assert story.land(stopped="a") == ["-a b@4"]
    #      no finish for a, though its frame came back and says that it stopped
    assert story.land() == ["b@5"]
    #      and it is closed once
    assert story.cancel("a") == []
    assert story.land() == ["b@6"]
    #      to cancel it again is harmless


def test_a_request_that_no_stage_has_heard_of_is_never_closed() -> None:
    story = Story(stages=1)
    story.arrive("a", prompt=4, new=2)
    assert story.arrive("b", prompt=4, new=2) == ["admit b after 0 s"]
    #      admitted, but the only frame is under way
    assert story.cancel("b") == []
    assert story.land() == ["a@4"]
    assert story.land() == ["finish a: length"]
    assert story.arrive("c", prompt=4, new=2)[1] == "-a +c c[0:4)!"


# -- faults


def test_a_lost_stage_ends_all_requests_and_refuses_new_ones_until_it_is_back() -> None:
    story = Story(stages=2, max_running=2)
    for name in "abc":
        story.arrive(name, prompt=4, new=9)
    assert story.lose() == [
        "fail a: StageUnavailable",
        "fail b: StageUnavailable",
        "reject c: StageUnavailable",
        #    c never began
    ]
    assert story.errors["a"] is LOST
    assert story.arrive("d", prompt=4, new=4) == ["reject d: StageUnavailable"]
    assert story.tick() == []
    assert story.scheduler.statistics().frames_in_flight == story.pages_in_use == 0
    assert story.back() == []
    assert story.arrive("e", prompt=4, new=1) == ["admit e after 0 s", "-a -b +e e[0:4)!"]
    #      stages that did not die themselves may still hold a and b


def test_results_from_before_the_loss_are_ignored() -> None:
    story = Story(stages=2)
    story.arrive("a", prompt=4, new=9)
    story.lose()
    story.back()
    assert story.land(stopped="a") == []
    story.arrive("b", prompt=4, new=1)
    assert story.land() == ["finish b: length"]


def test_decoding_goes_on_after_a_loss_that_caught_a_decode_under_way() -> None:
    story = Story()
    story.arrive("a", prompt=4, new=9)
    assert story.land() == ["a@4"]
    story.lose()
    story.back()
    story.under_way.clear()
    story.arrive("b", prompt=4, new=3)
    assert story.land() == ["b@4"]
    assert story.land() == ["b@5"]


def test_a_refused_frame_with_a_prompt_in_it_ends_the_prompt_and_decodes_go_again() -> None:
    story = Story(stages=1)
    story.arrive("a", prompt=4, new=9)
    story.arrive("b", prompt=4, new=9)
    assert story.land() == ["+b a@4 b[0:4)!"]
    assert story.refuse() == ["fail b: StageUnavailable", "-b a@4"]
    assert story.land() == ["a@5"]
    assert story.refuse() == ["fail a: StageUnavailable"]
    assert story.pages_in_use == 0


def test_a_refused_frame_ends_its_sequences_and_no_others() -> None:
    story = Story(stages=2)
    story.arrive("a", prompt=4, new=9)
    story.arrive("b", prompt=4, new=9)
    assert story.refuse() == ["fail a: StageUnavailable"]
    assert story.pages_in_use == 1
    assert story.land() == ["-a b@4"]
    assert story.refuse() == ["fail b: StageUnavailable"]
    assert story.arrive("c", prompt=4, new=1)[1] == "-a -b +c c[0:4)!"
    #      the stages behind the one that refused have not heard that a is over
    assert story.pages_in_use == 1
