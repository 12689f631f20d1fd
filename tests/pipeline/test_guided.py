"""A guide follows its answer on the pipeline's side; what it allows goes to the last stage."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import EdgeserveError, Unprocessable
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Generation, Order
from edgeserve.pipeline.relay import Relay, Trip
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.wire.codec import decode_frame, with_payload
from edgeserve.wire.frame import Failure, Frame, Sampled

STOP = 2
LABELS = (StageLabel(stage=0, worker="box-0:1", layers=(0, 2)),)
LIMITS = Limits(
    stages=1, processors=1, pages=100, context_tokens=64, max_running=8, prefill_chunk=32
)


@dataclass
class CountingGuide:
    """Allows the token after the newest one, and none after `last`."""

    last: int = 99
    newest: int = 10
    seen: list[int] = field(default_factory=list)

    def mask(self) -> bytes:
        return (1 << self.newest + 1).to_bytes(16, "little")

    def advance(self, token: int) -> None:
        self.seen.append(token)
        self.newest = token
        if token == self.last:
            raise Unprocessable("there is no way on")


class KeptFrames(Relay):
    def __init__(self) -> None:
        self.sent: list[Frame] = []

    def send(
        self, number: int, tokens: int, head: bytes, payload: bytes, for_last: bytes = b""
    ) -> None:
        self.sent.append(decode_frame(with_payload(head + for_last, payload)))


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        loop = asyncio.get_running_loop()
        self.driver = Driver(Scheduler(LIMITS), LABELS, self.clock, loop, drafts=4)
        self.relay = KeptFrames()
        self.driver.stages_ready(self.relay)

    def ask(self, guide: CountingGuide | None, prompt: int = 3) -> Generation:
        return self.driver.arrived(
            Order(
                prompt=tuple(range(5, 5 + prompt)), max_new_tokens=9, sampling=Sampling(),
                stop_ids=frozenset({STOP}), received_s=self.clock.now_s(), guide=guide,
            )
        )  # fmt: skip

    @property
    def newest(self) -> Frame:
        return self.relay.sent[-1]

    def answer(self, tokens: dict[int, int], failure: Failure | None = None) -> None:
        sent_s = self.clock.now_s()
        self.clock.advance(0.1)
        hop = Hop(
            stage=0, sent_s=sent_s, returned_s=self.clock.now_s(), inside=StageTime(compute_s=0.08)
        )
        sampled = tuple(Sampled(sequence=s, token=t, logprob=-1.0) for s, t in tokens.items())
        self.driver.trip_done(
            Trip(frame=self.newest.frame, hops=(hop,), sampled=sampled, failure=failure)
        )


def bit(token: int) -> bytes:
    return (1 << token).to_bytes(16, "little")


async def test_each_token_moves_the_mask_of_its_sequence_alone() -> None:
    bench = Bench()
    bench.ask(CountingGuide())
    assert bench.newest.masks == {1: bit(11)}
    bench.ask(None)
    bench.ask(CountingGuide(newest=50))
    bench.answer({1: 11})
    assert bench.newest.masks == {1: bit(12), 3: bit(51)}
    assert {each.sequence for each in bench.newest.segments} == {1, 2, 3}


async def test_the_middle_of_a_prompt_has_no_mask() -> None:
    bench = Bench()
    bench.ask(CountingGuide(), prompt=50)
    chunk = bench.newest
    assert [each.samples for each in chunk.segments] == [0]
    assert chunk.masks == {}
    bench.answer({})
    assert [each.samples for each in bench.newest.segments] == [1]
    assert bench.newest.masks == {1: bit(11)}


async def test_nothing_is_drafted_for_a_guided_answer() -> None:
    bench = Bench()
    bench.ask(CountingGuide(newest=4), prompt=9)
    for token in (5, 6, 7, 8):  # as in the prompt: without a guide they would be drafted
        bench.answer({1: token})
        assert [each.samples for each in bench.newest.segments] == [1]


async def test_a_frame_that_is_sent_again_has_the_same_mask() -> None:
    bench = Bench()
    bench.ask(CountingGuide())
    bench.answer({1: 11})
    bench.ask(CountingGuide(newest=50))
    bench.answer({1: 12})
    assert bench.newest.masks == {1: bit(13), 2: bit(51)}
    bench.answer({}, failure=Failure(error_type="wire", message="no"))
    #      the prompt in it is to blame: the other goes again
    assert bench.newest.masks == {1: bit(13)}


async def test_a_guide_is_not_asked_what_follows_the_end() -> None:
    bench = Bench()
    guide = CountingGuide()
    generation = bench.ask(guide)
    bench.answer({1: 11})
    bench.answer({1: STOP})
    assert [each.token async for each in generation] == [11, STOP]
    assert guide.seen == [11]


async def test_an_answer_without_a_way_on_ends_with_its_error_and_no_other_notices() -> None:
    bench = Bench()
    stuck = bench.ask(CountingGuide(last=12))
    bench.answer({1: 11})
    other = bench.ask(CountingGuide(newest=50))
    bench.answer({1: 12})
    assert bench.newest.masks == {2: bit(51)}
    bench.answer({2: 51})
    bench.answer({2: STOP})
    assert [each.token async for each in other] == [51, STOP]
    assert (await anext(stuck)).token == 11
    with pytest.raises(EdgeserveError, match="there is no way on"):
        await anext(stuck)
    await asyncio.sleep(0)
    assert bench.driver.scheduler.statistics().pages_in_use == 0
    assert bench.driver.observer.requests.errors["validation"] == 1
