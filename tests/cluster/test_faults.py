"""Workers and gateways that die, freeze, come back, and get in one another's way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from edgeserve.config import Address
from edgeserve.errors import StageUnavailable
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Generation
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    Cluster,
    ask,
    engine_settings,
    first_tokens,
    freeze,
    order,
    running_engine,
    thaw,
    tokens_of,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT = tuple(range(3, 23))
LONG = 3000
"""More tokens than can be generated before something happens."""


@pytest.mark.parametrize("stage", [0, 1, 2])
async def test_a_killed_worker_ends_running_requests_and_serves_again_when_it_is_back(
    stage: int, cluster: Cluster, talker: TinyModel
) -> None:
    async with running_engine(engine_settings(cluster.addresses, talker.folder)) as engine:
        before = await ask(engine, order(PROMPT, 20))
        running = [await _under_way(engine) for _ in range(3)]
        cluster.kill(stage)
        errors = [await _error_of(generation, within_s=5) for generation in running]

        for error in errors:
            _blames(error, stage, cluster.addresses[stage])
        status = engine.status()
        assert (status.phase, status.stage) == ("stage_lost", stage)
        assert status.worker == str(cluster.addresses[stage])
        _blames(await _refusal(engine, within_s=3), stage, cluster.addresses[stage])
        assert (await engine.cluster())["pages"]["in_use"] == 0

        await asyncio.to_thread(cluster.restart, stage)
        await _ready(engine, within_s=30)
        assert await ask(engine, order(PROMPT, 20)) == before


async def test_a_worker_that_dies_between_requests_is_noticed_without_one(
    cluster: Cluster, talker: TinyModel
) -> None:
    async with running_engine(engine_settings(cluster.addresses, talker.folder)) as engine:
        cluster.kill(1)
        await _until(lambda: engine.status().phase == "stage_lost", within_s=15)
        _blames(await _refusal(engine, within_s=3), 1, cluster.addresses[1])


@pytest.mark.parametrize("stage", [0, 2])
async def test_a_frozen_worker_ends_running_requests_and_serves_again_when_it_thaws(
    stage: int, cluster: Cluster, talker: TinyModel
) -> None:
    async with running_engine(engine_settings(cluster.addresses, talker.folder)) as engine:
        before = await ask(engine, order(PROMPT, 20))
        running = await _under_way(engine)
        freeze(cluster.children[stage])
        error = await _error_of(running, within_s=20)
        _blames(error, stage, cluster.addresses[stage])
        _blames(await _refusal(engine, within_s=3), stage, cluster.addresses[stage])
        thaw(cluster.children[stage])
        await _ready(engine, within_s=30)
        assert await ask(engine, order(PROMPT, 20)) == before


async def test_workers_that_still_hold_their_slice_do_not_load_it_again(
    cluster: Cluster, talker: TinyModel
) -> None:
    settings = engine_settings(cluster.addresses, talker.folder)
    async with running_engine(settings) as engine:
        first = (await engine.cluster())["stages"]
        cluster.kill(1)
        await _until(lambda: engine.status().phase == "stage_lost", within_s=15)
        await asyncio.to_thread(cluster.restart, 1)
        await _ready(engine, within_s=30)
        second = (await engine.cluster())["stages"]
    async with running_engine(settings) as engine:
        third = (await engine.cluster())["stages"]
    assert _loads(second)[0] == _loads(first)[0]
    assert _loads(second)[2] == _loads(first)[2]
    assert _loads(second)[1] != _loads(first)[1], "it was restarted"
    assert _loads(third) == _loads(second)


async def test_of_two_gateways_the_later_one_serves_and_the_other_one_says_so(
    cluster: Cluster, talker: TinyModel
) -> None:
    settings = engine_settings(cluster.addresses, talker.folder)
    async with running_engine(settings) as older:
        expected = await ask(older, order(PROMPT, 20))
        interrupted = await _under_way(older)
        async with running_engine(settings) as newer:
            await _error_of(interrupted, within_s=10)
            # A frame that waited on a worker is refused there; the stream ends with the next one.
            with pytest.raises(StageUnavailable):
                await ask(older, order(PROMPT, 5))
            await _until(lambda: "taken over" in older.status().reason, within_s=15)
            for _ in range(5):  # for seconds: the older one does not come back for its workers
                assert await ask(newer, order(PROMPT, 20)) == expected
                refused = await _refusal(older, within_s=3)
                assert "a gateway that started later" in str(refused)
                assert refused.numbers["retryable"] is False
                await asyncio.sleep(0.4)
            assert newer.status().is_ready
            assert not older.status().is_ready


async def test_an_idle_gateway_learns_of_its_successor_at_its_next_request(
    cluster: Cluster, talker: TinyModel
) -> None:
    settings = engine_settings(cluster.addresses, talker.folder)
    async with running_engine(settings) as older, running_engine(settings) as newer:
        await _error_of(await older.submit(order(PROMPT, 20)), within_s=10)
        await _until(lambda: "taken over" in older.status().reason, within_s=15)
        assert "a gateway that started later" in str(await _refusal(older, within_s=3))
        assert len(await ask(newer, order(PROMPT, 20))) == 20


async def test_a_frame_that_a_worker_refuses_fails_its_own_request_alone(
    workers: tuple[Address, ...], talker: TinyModel
) -> None:
    """Order what no gateway would: token ids that the model does not have."""
    async with running_engine(engine_settings(workers, talker.folder)) as engine:
        expected = await ask(engine, order(PROMPT, 200))
        other = await engine.submit(order(PROMPT, 200))
        begun = await first_tokens(other, 5)
        for stranger in (340, 2**31 - 1, 2**32 - 1):
            bad = await engine.submit(order((5, stranger, 7), 10))
            error = await _error_of(bad, within_s=10)
            assert "stage 0" in str(error)
            assert "refused a frame" in str(error)
            assert "vocabulary" in str(error)
        assert [token.token for token in begun] + await tokens_of(other) == expected
        assert engine.status().is_ready
        assert (await engine.cluster())["pages"]["in_use"] == 0


# -- what happens to a request


async def _under_way(engine: PipelineEngine) -> Generation:
    """A request in the midst of its tokens."""
    generation = await engine.submit(order(PROMPT, LONG))
    await first_tokens(generation, 3)
    return generation


async def _error_of(generation: Generation, within_s: float) -> StageUnavailable:
    start_s = time.monotonic()
    with pytest.raises(StageUnavailable) as caught:
        await tokens_of(generation, within_s=within_s + 5)
    took_s = time.monotonic() - start_s
    assert took_s < within_s, f"took {took_s:.1f} s: {caught.value}"
    return caught.value


async def _refusal(engine: PipelineEngine, within_s: float) -> StageUnavailable:
    start_s = time.monotonic()
    with pytest.raises(StageUnavailable) as caught:
        await engine.submit(order(PROMPT, 5))
    assert time.monotonic() - start_s < within_s
    return caught.value


def _blames(error: StageUnavailable, stage: int, worker: Address) -> None:
    document = error.to_json()
    assert error.http_status == 503
    assert document["error_type"] == "stage_unavailable"
    assert document["stage"] == stage
    assert document["worker"] == str(worker)
    assert document["retryable"] is True
    assert f"stage {stage}" in document["error"]
    assert str(worker) in document["error"]


async def _ready(engine: PipelineEngine, within_s: float) -> None:
    await _until(lambda: engine.status().is_ready, within_s)


async def _until(happens: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not happens():
            await asyncio.sleep(0.02)


def _loads(stages: list[dict[str, Any]]) -> list[tuple[str, float]]:
    return [(stage["slice_hash"], stage["load_s"]) for stage in stages]
