"""The driver tells its observer what happened, behind the frames that it sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import StageUnavailable, Unprocessable
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Generation, Order
from edgeserve.pipeline.relay import Relay, Trip
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.wire.frame import Sampled

STOP = 2
LABELS = tuple(
    StageLabel(stage=i, worker=f"box-{i}:1", layers=(2 * i, 2 * i + 2)) for i in range(2)
)
LIMITS = Limits(stages=2, processors=2, pages=100, context_tokens=64, max_running=8)


class KeptFrames(Relay):
    """Keeps the numbers of the frames that it was to send."""

    def __init__(self, observed: Callable[[], int]) -> None:
        self.sent: list[int] = []
        self.observed_at_send: list[int] = []
        self._observed = observed

    def send(
        self, number: int, tokens: int, head: bytes, payload: bytes, masks: bytes = b""
    ) -> None:
        self.sent.append(number)
        self.observed_at_send.append(self._observed())


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        self.driver = Driver(
            Scheduler(LIMITS), LABELS, self.clock, asyncio.get_running_loop(), drafts=0
        )
        self.observer = self.driver.observer
        self.relay = KeptFrames(lambda: self.observer.frames)
        self.driver.stages_ready(self.relay)

    def ask(self, tokens: int, prompt: int = 3) -> Generation:
        return self.driver.arrived(
            Order(
                prompt=tuple(range(5, 5 + prompt)), max_new_tokens=tokens, sampling=Sampling(),
                stop_ids=frozenset({STOP}), received_s=self.clock.now_s() - 0.5,
            )
        )  # fmt: skip

    async def answer(self, *tokens: int) -> None:
        """The frame that was sent comes back, after 0.1 s at each of two stages."""
        sent_s = self.clock.now_s()
        self.clock.advance(0.2)
        inside = StageTime(compute_s=0.08)
        hops = tuple(
            Hop(
                stage=i, sent_s=sent_s + 0.1 * i, returned_s=sent_s + 0.1 * (i + 1),
                inside=inside,
            )
            for i in range(2)
        )  # fmt: skip
        sampled = tuple(
            Sampled(sequence=i + 1, token=token, logprob=-1.0) for i, token in enumerate(tokens)
        )
        self.driver.trip_done(
            Trip(frame=self.relay.sent[-1], hops=hops, sampled=sampled, failure=None)
        )
        await asyncio.sleep(0)


async def test_a_request_is_observed_from_its_first_token_to_its_end() -> None:
    bench = Bench()
    bench.ask(tokens=3)
    for token in (7, 8, 9):
        await bench.answer(token)
    requests = bench.observer.requests
    assert requests.tokens == 3
    assert requests.first_token.sum == pytest.approx(0.7)
    assert requests.between_tokens.at_most()[-1] == 2
    assert requests.between_tokens.sum == pytest.approx(0.4)
    assert requests.ends["length"] == 1
    assert requests.total.sum == pytest.approx(1.1)
    #      its last token is among them
    assert requests.decode.sum == pytest.approx(0.4)
    steps = list(bench.observer.steps)
    assert [(step.tokens, step.sequences) for step in steps] == [(3, 1), (1, 1), (1, 1)]
    assert [step.done_s - step.ordered_s for step in steps] == [pytest.approx(0.2)] * 3


async def test_frames_are_sent_before_the_one_ahead_is_observed() -> None:
    bench = Bench()
    bench.ask(tokens=3)
    for token in (7, 8, 9):
        await bench.answer(token)
    assert bench.relay.observed_at_send == [0, 0, 1]
    assert bench.observer.frames == 3


async def test_each_kind_of_end_is_counted_once() -> None:
    bench = Bench()
    bench.ask(tokens=9)
    await bench.answer(STOP)
    #      its own end
    left, stopped = bench.ask(tokens=9), bench.ask(tokens=9)
    left.cancel()
    stopped.cancel(answered=True)
    await asyncio.sleep(0)
    #      a client that went away, and a stop string
    with pytest.raises(Unprocessable):
        bench.ask(tokens=900)
    bench.ask(tokens=9)
    bench.driver.stage_lost(StageUnavailable("stage 1 is lost", stage=1))
    await asyncio.sleep(0)
    requests = bench.observer.requests
    assert requests.ends == {"stop": 2, "length": 0, "abort": 1}
    assert requests.errors == {"validation": 1, "stage_unavailable": 1, "overloaded": 0}
    assert requests.total.at_most()[-1] == 1
    #      of those that were answered, the only one with a token
