"""Whatever is logged on a request's behalf is logged under its id."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from edgeserve.clock import ManualClock
from edgeserve.errors import StageUnavailable
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.log import JsonLines
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring
from tests.gateway.test_disconnect import call

ClientFor = Callable[[AppState], httpx.AsyncClient]
logger = logging.getLogger("edgeserve.made_up")


class Talkative(FakeEngine):
    """Logs without knowing for whom, and breaks."""

    async def cluster(self) -> dict[str, Any]:
        logger.warning("asked")
        raise ZeroDivisionError("the cause")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What edgeserve has logged as JSON."""
    written, root = io.StringIO(), logging.getLogger("edgeserve")
    level = root.level
    root.setLevel(logging.INFO)
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


async def test_requests_at_the_same_time_log_under_their_own_ids(
    state: AppState,
    client_for: Callable[[AppState], httpx.AsyncClient],
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    client = client_for(replace(state, engine=Talkative(ManualClock())))
    ids = ["first", "second"]
    await asyncio.gather(
        *(client.get("/v1/cluster", headers={"x-request-id": each}) for each in ids)
    )
    logger.warning("nobody's")
    *of_requests, last = lines()
    for each in ids:
        asked, failed, ended = [line for line in of_requests if line["request_id"] == each]
        assert (asked["event"], asked["logger"]) == ("asked", "edgeserve.made_up")
        assert failed["event"] == f"request {each} failed"
        assert "ZeroDivisionError: the cause" in failed["error"]
        assert (ended["event"], ended["status"], ended["error_type"]) == (
            "request",
            500,
            "internal",
        )
    assert (last["event"], "request_id" in last) == ("nobody's", False)


Lines = Callable[[], list[dict[str, Any]]]
BODY = {"inputs": "abc", "parameters": {"max_new_tokens": 4}}


def of_requests(lines: Lines) -> list[dict[str, Any]]:
    return [line for line in lines() if line["event"] == "request"]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_a_line_tells_what_became_of_a_request(
    path: str, state: AppState, client_for: ClientFor, lines: Lines
) -> None:
    keys = key_ring(state.clock, {"alice": "open sesame"})
    client = client_for(replace(state, keys=keys))
    headers = {"authorization": "Bearer open sesame", "x-request-id": "abc"}
    await client.post(path, json=BODY, headers=headers)
    (line,) = of_requests(lines)
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "edgeserve.gateway.edge.request_context",
        "event": "request",
        "method": "POST",
        "path": path,
        "status": 200,
        "ms": 40.0,
        #     four tokens, for each of which the fake's clock moves by 10 ms
        "prompt_tokens": 3,
        "output_tokens": 4,
        "finish_reason": "length",
        "request_id": "abc",
        "tenant": "alice",
    }


async def test_several_answers_are_one_line(client: httpx.AsyncClient, lines: Lines) -> None:
    await client.post("/v1/completions", json={"prompt": "abc", "n": 2, "max_tokens": 4})
    (line,) = of_requests(lines)
    assert (line["prompt_tokens"], line["output_tokens"]) == (6, 8)
    assert line["finish_reason"] == "length,length"


async def test_a_stream_that_breaks_off_says_why(
    client: httpx.AsyncClient, engine: FakeEngine, lines: Lines
) -> None:
    engine.fail(StageUnavailable("gone"), after_tokens=2)
    await client.post("/generate_stream", json=BODY)
    (line,) = of_requests(lines)
    assert (line["status"], line["output_tokens"]) == (200, 2)
    assert line["finish_reason"] == "stage_unavailable"


async def test_a_client_that_leaves_is_told_of_as_such(
    state: AppState, engine: FakeEngine, lines: Lines
) -> None:
    engine.hold(after_tokens=1)
    gone = asyncio.Event()
    leaving = asyncio.create_task(call(state, "/generate", gone))
    await engine.wait_for_orders(1)
    gone.set()
    await leaving
    (line,) = of_requests(lines)
    assert (line["status"], line["finish_reason"]) == (499, "cancelled")


async def test_a_client_that_leaves_before_its_body_is_no_fault_of_ours(
    state: AppState, lines: Lines
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "query_string": b"",
        "headers": [],
    }
    await create_app(state)(scope, receive, send)
    (line,) = lines()
    assert (line["event"], line["status"], sent) == ("request", 499, [])


async def test_who_only_looks_is_no_news(client: httpx.AsyncClient, lines: Lines) -> None:
    for path in ("/health", "/metrics", "/v1/models"):
        assert (await client.get(path)).status_code == 200
    assert of_requests(lines) == []
    await client.get("/nope")
    (line,) = of_requests(lines)
    assert (line["path"], line["status"]) == ("/nope", 404)


async def test_a_key_is_never_logged(state: AppState, client_for: ClientFor, lines: Lines) -> None:
    client = client_for(replace(state, keys=key_ring(state.clock, {"alice": "open sesame"})))
    for key in ("open sesame", "open sesamy"):
        await client.post("/generate", json=BODY, headers={"authorization": f"Bearer {key}"})
    assert [line["status"] for line in of_requests(lines)] == [200, 401]
    assert "sesam" not in json.dumps(lines())
