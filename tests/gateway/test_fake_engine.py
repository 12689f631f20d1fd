"""The fake engine keeps the terms of the seam: what passes with it may pass with the real one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeserve.clock import ManualClock, MonotonicClock
from edgeserve.errors import EdgeserveError, Overloaded, StageUnavailable
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.generation import Engine, Generation, Order, Status, Token
from edgeserve.testing import FakeEngine


def order(prompt: tuple[int, ...] = (5, 6), tokens: int = 5, *stop_ids: int) -> Order:
    return Order(
        prompt=prompt,
        max_new_tokens=tokens,
        sampling=Sampling(),
        stop_ids=frozenset(stop_ids),
        received_s=0.0,
    )


async def tokens(generation: Generation) -> list[int]:
    return [each.token async for each in generation]


def check_adds_up(receipt: dict[str, Any]) -> None:
    def check(of: dict[str, Any]) -> None:
        kinds = ("compute_ms", "transfer_ms", "waiting_ms", "other_ms")
        assert sum(of[kind] for kind in kinds) == pytest.approx(of["total_ms"], rel=0.01, abs=0.01)

    for each in (receipt["prefill"], receipt["decode"], *receipt["per_token"]):
        check(each)
    phases = receipt["queue_ms"] + receipt["prefill"]["total_ms"] + receipt["decode"]["total_ms"]
    assert receipt["total_ms"] == pytest.approx(phases, rel=0.01)
    stages = sum(each["compute_ms"] for each in receipt["stages"])
    assert stages == pytest.approx(
        receipt["prefill"]["compute_ms"] + receipt["decode"]["compute_ms"], rel=0.01
    )


async def test_it_is_an_engine(engine: FakeEngine) -> None:
    as_engine: Engine = engine
    assert as_engine.status().is_ready


async def test_a_request_ends_at_its_length(engine: FakeEngine) -> None:
    generation = await engine.submit(order(tokens=5))
    assert await tokens(generation) == [5, 6, 5, 6, 5]
    assert generation.ended is not None
    assert generation.ended.reason == "length"
    assert engine.running == 0


async def test_a_request_ends_at_a_stop_token_which_is_its_last(clock: ManualClock) -> None:
    generation = await FakeEngine(clock, (1, 2, 3)).submit(order((9,), 5, 2))
    assert await tokens(generation) == [1, 2]
    assert generation.ended is not None
    assert generation.ended.reason == "eos_token"


async def test_a_reply_may_depend_on_the_order(clock: ManualClock) -> None:
    engine = FakeEngine(clock, lambda order: (len(order.prompt),))
    assert await tokens(await engine.submit(order((7, 7, 7), 2))) == [3, 3]


@pytest.mark.parametrize("stages", [1, 3])
async def test_its_receipt_adds_up(stages: int) -> None:
    for clock in (ManualClock(), MonotonicClock()):
        engine = FakeEngine(clock, stages=stages)
        begin_s = clock.now_s()
        asked = Order(**{**vars(order()), "received_s": begin_s})
        generation = await engine.submit(asked)
        await tokens(generation)
        receipt = generation.receipt(clock.now_s(), 5)
        check_adds_up(receipt)
        assert receipt["prefill"]["compute_ms"] > 0
        assert len(receipt["stages"]) == stages


async def test_a_manual_clock_is_moved_on_by_each_step(clock: ManualClock) -> None:
    engine = FakeEngine(clock, step_s=0.5)
    await tokens(await engine.submit(order(tokens=4)))
    assert clock.now_s() == pytest.approx(102)


async def test_held_requests_go_on_when_released(engine: FakeEngine) -> None:
    engine.hold(after_tokens=2)
    generation = await engine.submit(order(tokens=4))
    first = [(await anext(generation)).token for _ in range(2)]
    waiting = asyncio.create_task(tokens(generation))
    await asyncio.sleep(0)
    assert not waiting.done()
    engine.release()
    assert first + await waiting == [5, 6, 5, 6]


async def test_what_is_cancelled_is_noted_and_gets_nothing_more(engine: FakeEngine) -> None:
    generation = await engine.submit(order(tokens=50))
    assert await anext(generation) == Token(token=5, logprob=-0.5)
    generation.cancel()
    generation.cancel()
    assert engine.cancelled == engine.orders
    assert engine.running == 0
    await asyncio.sleep(0)
    assert generation.ended is None


async def test_cancelling_what_has_ended_is_harmless(engine: FakeEngine) -> None:
    generation = await engine.submit(order())
    await tokens(generation)
    generation.cancel()
    assert engine.cancelled == []


async def test_it_can_fail_midway(engine: FakeEngine) -> None:
    engine.fail(EdgeserveError("broken"), after_tokens=2)
    generation = await engine.submit(order())
    got = [(await anext(generation)).token, (await anext(generation)).token]
    with pytest.raises(EdgeserveError, match="broken"):
        await anext(generation)
    assert got == [5, 6]
    assert engine.running == 0


async def test_a_lost_stage_fails_what_runs_and_refuses_what_comes(engine: FakeEngine) -> None:
    engine.hold(after_tokens=1)
    generation = await engine.submit(order())
    await anext(generation)
    engine.lose_stage(1)
    with pytest.raises(StageUnavailable, match="stage 1 on 127.0.0.1:50052 is lost"):
        await anext(generation)
    with pytest.raises(StageUnavailable):
        await engine.submit(order())
    engine.release()
    assert len(await tokens(await engine.submit(order()))) == 5


async def test_it_can_be_too_busy(engine: FakeEngine) -> None:
    engine.overload(retry_after_s=9)
    with pytest.raises(Overloaded) as error:
        await engine.submit(order())
    assert error.value.retry_after_s == 9
    assert engine.orders == []


async def test_draining_waits_for_what_runs_and_refuses_what_comes(engine: FakeEngine) -> None:
    generation = await engine.submit(order())
    await engine.drain(5)
    assert engine.running == 0
    assert len(await tokens(generation)) == 5
    assert engine.status().phase == "draining"
    with pytest.raises(StageUnavailable, match="shutting down"):
        await engine.submit(order())


async def test_draining_ends_when_time_is_up(engine: FakeEngine) -> None:
    engine.hold()
    await engine.submit(order())
    await engine.drain(0.01)
    assert engine.running == 1


async def test_it_says_what_it_is_told_to_say(engine: FakeEngine) -> None:
    status = Status(phase="starting")
    engine.set_status(status)
    assert engine.status() is status
    assert (await engine.cluster())["status"]["phase"] == "starting"
