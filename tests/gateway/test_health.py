"""/livez, /readyz and /health: three questions, three answers."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.observe.health import PROOF_AGE_S, Health
from edgeserve.pipeline.generation import Ended, Generation, Order, Status
from edgeserve.testing import FakeEngine

LOST = Status(phase="stage_lost", reason="stage 1 is lost", stage=1, worker="10.0.0.2:50051")
QUIET = Status(phase="ready", since_last_frame_s=PROOF_AGE_S)


async def test_a_process_is_alive_whatever_its_stages_do(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(LOST)
    assert (await client.get("/livez")).status_code == 200


@pytest.mark.parametrize("path", ["/readyz", "/health"])
async def test_a_lost_stage_is_named(
    path: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(LOST)
    answer = await client.get(path)
    assert answer.status_code == 503
    assert answer.json() == {
        "error": "stage 1 is lost",
        "error_type": "stage_unavailable",
        "retryable": True,
        "phase": "stage_lost",
        "stage": 1,
        "worker": "10.0.0.2:50051",
    }


@pytest.mark.parametrize("path", ["/readyz", "/health"])
@pytest.mark.parametrize("phase", ["starting", "draining"])
async def test_a_pipeline_that_is_not_ready_says_what_it_is(
    path: str, phase: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(Status(phase=phase))
    answer = await client.get(path)
    assert answer.status_code == 503
    assert answer.json()["error"] == f"the pipeline is {phase}"


async def test_a_frame_of_a_moment_ago_is_proof_enough(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(Status(phase="ready", since_last_frame_s=PROOF_AGE_S - 0.1))
    assert (await client.get("/health")).status_code == 200
    assert engine.orders == []


@pytest.mark.parametrize("since_s", [None, PROOF_AGE_S, 1e6])
async def test_without_proof_one_token_is_generated(
    since_s: float | None, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(Status(phase="ready", since_last_frame_s=since_s))
    answer = await client.get("/health")
    assert answer.json() == {"status": "ok"}
    assert [order.max_new_tokens for order in engine.orders] == [1]
    assert engine.orders[0].stop_ids == frozenset()


async def test_ready_asks_for_no_token(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.set_status(QUIET)
    engine.hold()
    assert (await client.get("/readyz")).status_code == 200
    assert engine.orders == []


async def test_whoever_asks_meanwhile_shares_the_probe(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(QUIET)
    engine.hold()
    asking = [asyncio.create_task(client.get("/health")) for _ in range(5)]
    await engine.wait_for_orders(1)
    engine.release()
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 5
    assert len(engine.orders) == 1
    engine.set_status(QUIET)
    await client.get("/health")
    assert len(engine.orders) == 2, "the next one to ask gets a probe of its own"


async def test_one_who_stops_asking_does_not_end_the_probe_of_the_others(
    state: AppState, engine: FakeEngine
) -> None:
    engine.set_status(QUIET)
    engine.hold()
    health = Health(state)
    first, second = asyncio.create_task(health.works()), asyncio.create_task(health.works())
    await engine.wait_for_orders(1)
    first.cancel()
    await asyncio.sleep(0)
    engine.release()
    assert await second == {"status": "ok"}
    assert first.cancelled()
    assert engine.cancelled == []


async def test_a_token_that_does_not_come_is_a_failure_and_frees_its_pages(
    state: AppState, engine: FakeEngine
) -> None:
    engine.set_status(QUIET)
    engine.hold()
    with pytest.raises(StageUnavailable, match=r"no token came out within 0\.01 s"):
        await Health(state, probe_s=0.01).works()
    assert engine.cancelled == engine.orders
    assert engine.running == 0


async def test_a_probe_that_fails_says_why(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.set_status(QUIET)
    engine.fail(StageUnavailable("stage 1 answers nothing", stage=1))
    answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"] == "no token came out: stage 1 answers nothing"


async def test_a_queue_that_is_full_while_nothing_comes_out_is_not_healthy(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.set_status(QUIET)
    engine.overload()
    answer = await client.get("/health")
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("no token came out: 0 requests are running")


async def test_a_probe_without_a_token_is_a_failure(state: AppState) -> None:
    class Empty(FakeEngine):
        async def submit(self, order: Order) -> Generation:
            generation = await super().submit(order)
            generation.deliver(Ended(reason="length"))
            return generation

    engine = Empty(state.clock)
    engine.set_status(QUIET)
    engine.hold()
    health = Health(AppState(**{**vars(state), "engine": engine}))
    with pytest.raises(EdgeserveError, match="the request ended without one"):
        await health.works()
