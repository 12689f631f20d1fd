"""The relay between streams that a test holds in its hands."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Self, cast

import pytest

from edgeserve.clock import MonotonicClock
from edgeserve.errors import StageUnavailable
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.deadline import SilenceBound
from edgeserve.pipeline.relay import Relay, StageLink, Trip
from edgeserve.wire import SOON
from edgeserve.wire.client import RunStream
from edgeserve.wire.codec import decode_frame, encode_for_last, encode_result
from edgeserve.wire.frame import FrameResult, Score

WAIT_S = 5.0


@dataclass
class FakeStream:
    """What the relay sent, and what it is to receive."""

    sent: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    answers: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    is_over: bool = False

    async def send(self, raw: bytes) -> None:
        if self.is_over:
            raise StageUnavailable("its stream is over")
        self.sent.put_nowait(raw)

    async def receive(self) -> bytes:
        return await self.answers.get()

    def cancel(self) -> None:
        self.is_over = True


class Bench:
    def __init__(self, stages: int) -> None:
        self.streams = [FakeStream() for _ in range(stages)]
        self.trips: list[Trip] = []
        self.lost: list[StageUnavailable] = []
        links = [
            StageLink(
                stage=i,
                worker=f"box-{i}:1",
                stream=cast("RunStream", stream),
                silence=SilenceBound(ceiling_s=60),
            )
            for i, stream in enumerate(self.streams)
        ]
        self.relay = Relay(links, MonotonicClock(), self.trips.append, self.lost.append)

    async def __aenter__(self) -> Self:
        self.relay.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.relay.close()

    async def next_of(self, stage: int) -> bytes:
        return await asyncio.wait_for(self.streams[stage].sent.get(), WAIT_S)

    def answer(self, stage: int, payload: bytes = b"") -> None:
        result = FrameResult(frame=7, time=StageTime(), payload=payload)
        self.streams[stage].answers.put_nowait(encode_result(result))


@pytest.mark.asyncio
async def test_an_announcement_goes_one_stage_ahead_of_the_frame_and_around() -> None:
    async with Bench(stages=3) as bench:
        bench.relay.send(7, 1, b"", b"")
        assert await bench.next_of(0)
        for stage in (0, 1):
            bench.streams[stage].answers.put_nowait(SOON)
            assert await bench.next_of(stage + 1) == SOON
            bench.answer(stage, b"hidden")
            assert b"hidden" in await bench.next_of(stage + 1)
        bench.streams[2].answers.put_nowait(SOON)
        assert await bench.next_of(0) == SOON
        assert bench.trips == []
        bench.answer(2)
        await asyncio.sleep(0)
    assert [trip.frame for trip in bench.trips] == [7]
    assert not bench.lost


@pytest.mark.asyncio
@pytest.mark.parametrize("stages", [1, 3])
async def test_masks_and_what_is_scored_go_to_the_last_stage_alone(stages: int) -> None:
    score = Score(first_position=1, tokens=(8,))
    async with Bench(stages) as bench:
        bench.relay.send(7, 1, b"", b"ids", encode_for_last({5: b"mask"}, {6: score}))
        for stage in range(stages):
            frame = decode_frame(await bench.next_of(stage))
            assert frame.masks == ({5: b"mask"} if stage == stages - 1 else {})
            assert frame.scores == ({6: score} if stage == stages - 1 else {})
            bench.answer(stage, b"hidden")


@pytest.mark.asyncio
@pytest.mark.parametrize(("announcing", "gone"), [(0, 1), (2, 0)])
async def test_a_stage_that_cannot_be_told_is_the_one_that_is_lost(
    announcing: int, gone: int
) -> None:
    async with Bench(stages=3) as bench:
        bench.streams[gone].is_over = True
        bench.streams[announcing].answers.put_nowait(SOON)
        async with asyncio.timeout(WAIT_S):
            while not bench.lost:
                await asyncio.sleep(0.001)
    assert [error.numbers["stage"] for error in bench.lost] == [gone]
