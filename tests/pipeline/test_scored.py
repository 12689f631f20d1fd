"""The tokens of a prompt that are scored: which the last stage is asked for, and who gets them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from edgeserve.clock import ManualClock
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Ended, Generation, Order, Scoring, Token
from edgeserve.pipeline.relay import Relay, Trip
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.wire.codec import decode_frame, with_payload
from edgeserve.wire.frame import Frame, Sampled, Score, Scored

LABELS = (StageLabel(stage=0, worker="box-0:1", layers=(0, 2)),)
LIMITS = Limits(
    stages=1, processors=1, pages=100, context_tokens=128, max_running=8, prefill_chunk=32
)
ORDER = Order(
    prompt=tuple(range(100, 150)), max_new_tokens=2, sampling=Sampling(), stop_ids=frozenset(),
    received_s=100.0, scoring=Scoring(top_logprobs=2),
)  # fmt: skip


class KeptFrames(Relay):
    def __init__(self) -> None:
        self.sent: list[Frame] = []

    def send(
        self, number: int, tokens: int, head: bytes, payload: bytes, for_last: bytes = b""
    ) -> None:
        self.sent.append(decode_frame(with_payload(head + for_last, payload)))


class Bench:
    """Its last stage scores token t with -t, and samples 7s."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = ManualClock(100.0)
        self.answered = 0
        loop = asyncio.get_running_loop()
        self.driver = Driver(Scheduler(limits), LABELS, self.clock, loop)
        self.relay = KeptFrames()
        self.driver.stages_ready(self.relay)

    def answer(self) -> Frame:
        """The oldest frame that is under way comes back."""
        frame = self.relay.sent[self.answered]
        self.answered += 1
        sent_s = self.clock.now_s()
        self.clock.advance(0.1)
        inside = StageTime(compute_s=0.08)
        hop = Hop(stage=0, sent_s=sent_s, returned_s=self.clock.now_s(), inside=inside)
        sampled = [
            Sampled(sequence=each.sequence, token=7, logprob=-1.0)
            for each in frame.segments
            for _ in range(each.samples)
        ]
        scored = [
            Scored(sequence, token, -float(token), 3, ((9, -0.1),))
            for sequence, score in frame.scores.items()
            for token in score.tokens
        ]
        self.driver.trip_done(
            Trip(
                frame=frame.frame, hops=(hop,), sampled=tuple(sampled), failure=None,
                scored=tuple(scored),
            )
        )  # fmt: skip
        return frame


def told(tokens: range) -> list[Token]:
    return [Token(each, -float(each), ((9, -0.1),), 3) for each in tokens]


async def tokens_of(generation: Generation) -> list[int]:
    async with asyncio.timeout(5):
        return [each.token async for each in generation]


async def test_each_chunk_asks_for_the_tokens_behind_its_own_and_a_decode_for_none() -> None:
    bench = Bench()
    bench.driver.arrived(ORDER)

    asked = [bench.answer().scores for _ in range(3)]

    assert asked == [
        {1: Score(first_position=1, tokens=tuple(range(101, 133)), top_logprobs=2)},
        #   the chunk has positions [0, 32), and the token behind its last one comes with the next
        {1: Score(first_position=33, tokens=tuple(range(133, 150)), top_logprobs=2)},
        {},
    ]


async def test_the_prompts_tokens_are_there_before_the_first_of_the_answer() -> None:
    bench = Bench()
    generation = bench.driver.arrived(ORDER)
    for _ in range(3):
        bench.answer()

    first = await anext(generation)

    assert first.token == 7
    assert generation.prompt == told(range(101, 150))
    assert await tokens_of(generation) == [7]


async def test_only_tokens_from_the_first_position_on_are_scored() -> None:
    bench = Bench()
    generation = bench.driver.arrived(replace(ORDER, scoring=Scoring(first_position=40)))

    assert bench.answer().scores == {}
    assert bench.answer().scores[1].first_position == 40
    await anext(generation)
    assert [each.token for each in generation.prompt] == list(range(140, 150))


async def test_a_prompt_that_nothing_is_to_follow_ends_with_its_last_chunk() -> None:
    bench = Bench()
    generation = bench.driver.arrived(replace(ORDER, max_new_tokens=0))

    frames = [bench.answer(), bench.answer()]

    assert [each.samples for frame in frames for each in frame.segments] == [0, 0]
    assert await tokens_of(generation) == []
    assert generation.ended == Ended(reason="length")
    assert generation.prompt == told(range(101, 150))
    assert bench.driver.scheduler.statistics().pages_in_use == 0
    receipt = generation.receipt(bench.clock.now_s(), 0)
    assert receipt["per_token"] == []
    assert receipt["prefill"]["compute_ms"] == 160.0
    assert receipt["stages"][0]["compute_ms"] == 160.0


async def test_what_is_scored_is_not_taken_from_the_cache_but_what_stands_before_it_is() -> None:
    bench = Bench(replace(LIMITS, prefill_chunk=64))
    plain = replace(ORDER, scoring=None, max_new_tokens=1)
    for order, first in (
        (plain, 0),
        (plain, 48),
        (replace(ORDER, max_new_tokens=1), 0),
        (replace(plain, scoring=Scoring(first_position=33)), 32),
        (replace(plain, scoring=Scoring(first_position=32)), 16),
    ):
        bench.driver.arrived(order)
        frame = bench.answer()
        assert [each.first_position for each in frame.segments] == [first]
        for score in frame.scores.values():
            assert score.end_position == 50


async def test_a_cancelled_request_gets_nothing_more_and_its_neighbour_all() -> None:
    bench = Bench()
    leaves, stays = bench.driver.arrived(ORDER), bench.driver.arrived(ORDER)
    bench.answer()
    bench.driver.cancelled(1)
    while bench.answered < len(bench.relay.sent):
        bench.answer()

    assert await tokens_of(stays) == [7, 7]
    assert stays.prompt == told(range(101, 150))
    assert leaves.prompt == told(range(101, 133))


async def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    bench = Bench()
    generation = bench.driver.arrived(replace(ORDER, prompt=(5,), max_new_tokens=0))

    assert bench.answer().scores == {}
    assert await tokens_of(generation) == []
    assert generation.prompt == []
