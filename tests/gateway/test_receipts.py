"""GET /receipts/{request_id}: of answers that are over, for whoever asked for them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import httpx
import pytest

from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.request_context import RequestContext
from edgeserve.gateway.observe import receipts
from edgeserve.gateway.observe.receipts import KEPT_MAX
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring

Serving = Callable[[AppState], AbstractAsyncContextManager[str]]
ClientFor = Callable[[AppState], httpx.AsyncClient]


@pytest.fixture(autouse=True)
def _soon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What never comes is waited for a moment only, but where it is about that."""
    if "slow" not in request.keywords:
        monkeypatch.setattr(receipts, "SOON_S", 0.01)


async def test_the_receipt_of_an_answer_is_the_one_that_came_with_it(
    client: httpx.AsyncClient,
) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 6, "details": True}}
    answer = await client.post("/generate", json=body)
    request_id = answer.headers["x-request-id"]
    kept = (await client.get(f"/receipts/{request_id}")).json()
    assert kept == {
        "request_id": request_id,
        "answers": [
            {"generated_tokens": 6, "ended_by": "length", "timing": answer.json()["timing"]}
        ],
    }


async def test_each_of_several_answers_has_its_own(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/v1/completions",
        json={"prompt": "abc", "n": 3, "max_tokens": 2},
        headers={"x-request-id": "mine"},
    )
    assert answer.status_code == 200
    kept = (await client.get("/receipts/mine")).json()["answers"]
    assert [each["generated_tokens"] for each in kept] == [2, 2, 2]


@pytest.mark.slow
async def test_an_answer_that_was_stopped_has_one_at_once_and_it_stays(
    state: AppState, serving: Serving
) -> None:
    """Asked for before the gateway has noticed that its reader left, as a page does."""
    engine = FakeEngine(state.clock)
    engine.hold(after_tokens=3)
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 50}}
    async with (
        asyncio.timeout(10),
        serving(replace(state, engine=engine)) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        async with client.stream("POST", "/generate_stream", json=body) as stream:
            request_id = stream.headers["x-request-id"]
            events = stream.aiter_lines()
            for _ in range(5):  # three tokens, and a blank line between two
                await anext(events)
        first = (await client.get(f"/receipts/{request_id}")).json()
        state.clock.advance(5.0)  # type: ignore[attr-defined]  # a manual clock
        second = (await client.get(f"/receipts/{request_id}")).json()
    (answer,) = first["answers"]
    assert (answer["generated_tokens"], answer["ended_by"]) == (3, "cancelled")
    assert len(answer["timing"]["per_token"]) == 3
    assert second == first, "time goes on, the answer does not"


async def test_nobody_elses_receipt_is_told(state: AppState, client_for: ClientFor) -> None:
    keys = key_ring(state.clock, {"me": "mine", "you": "yours"})
    client = client_for(replace(state, keys=keys))
    headers = {"x-request-id": "secret", "authorization": "Bearer mine"}
    await client.post("/generate", json={"inputs": "abc"}, headers=headers)
    asked = {
        name: await client.get("/receipts/secret", headers={"authorization": f"Bearer {name}"})
        for name in ("mine", "yours", "none")
    }
    assert {name: each.status_code for name, each in asked.items()} == {
        "mine": 200, "yours": 404, "none": 401,
    }  # fmt: skip


async def test_what_is_not_kept_is_said_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/receipts/never")
    assert answer.status_code == 404
    assert 'no receipt of request "never": the last 64 answers' in answer.json()["error"]


@pytest.mark.parametrize("timing", [True, False])
async def test_what_was_said_is_not_kept(timing: bool, state: AppState) -> None:
    """Prompts and log-probabilities of 64 requests would be gigabytes."""
    exchanges: list[RequestContext] = []
    app = create_app(state, tell=(exchanges.append,))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        body = {"prompt": "abc", "echo": True, "logprobs": 2, "max_tokens": 2, "timing": timing}
        await client.post("/v1/completions", json=body, headers={"x-request-id": "r"})
        run = weakref.ref(exchanges[0].runs[0])
        exchanges.clear()
        gc.collect()
        assert run() is None
        (kept,) = (await client.get("/receipts/r")).json()["answers"]
    assert (kept["generated_tokens"], kept["ended_by"]) == (2, "length")
    assert len(kept["timing"]["per_token"]) == 2


async def test_an_id_that_is_used_again_is_a_new_one(client: httpx.AsyncClient) -> None:
    body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
    for name in ("r0", *(f"r{i}" for i in range(1, KEPT_MAX)), "r0", "r"):
        await client.post("/generate", json=body, headers={"x-request-id": name})
    found = [await client.get(f"/receipts/{name}") for name in ("r0", "r", "r1")]
    assert [each.status_code for each in found] == [200, 200, 404]


async def test_the_oldest_make_room(client: httpx.AsyncClient) -> None:
    for i in range(KEPT_MAX + 1):
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        await client.post("/generate", json=body, headers={"x-request-id": f"r{i}"})
    found = [await client.get(f"/receipts/r{i}") for i in (0, 1, KEPT_MAX)]
    assert [each.status_code for each in found] == [404, 200, 200]
