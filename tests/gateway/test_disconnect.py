"""A client that goes away frees its pages at once: over real connections, and by hand."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.types import Message, Scope

from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.testing import FakeEngine

Serving = Callable[[AppState], AbstractAsyncContextManager[str]]
PATIENCE_S = 5
BODY = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 50}}).encode()


async def post_and_leave(url: str, route: str, *, after: bytes, ready: asyncio.Event) -> None:
    """Sends a request over a bare connection, reads until `after`, waits, and cuts it."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
    writer.write(head.encode() + BODY)
    if after:
        await reader.readuntil(after)
    await ready.wait()
    writer.transport.abort()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "tokens", "seen"),
    [
        ("/generate", 0, b""),
        ("/generate", 5, b""),
        ("/generate_stream", 0, b"\r\n\r\n"),
        ("/generate_stream", 3, b'"index":3'),
    ],
)
async def test_a_client_that_leaves_frees_its_pages(
    route: str, tokens: int, seen: bytes, state: AppState, serving: Serving
) -> None:
    engine = FakeEngine(state.clock)
    engine.hold(after_tokens=tokens)
    async with asyncio.timeout(PATIENCE_S), serving(replace(state, engine=engine)) as url:
        ready = asyncio.Event()
        leaving = asyncio.create_task(post_and_leave(url, route, after=seen, ready=ready))
        await engine.wait_for_orders(1)
        assert engine.cancelled == []
        ready.set()
        await leaving
        await engine.wait_for_cancelled(1)
    assert engine.cancelled == engine.orders
    assert engine.running == 0


@pytest.mark.slow
async def test_one_client_that_leaves_does_not_take_another_along(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold(after_tokens=1)
    async with asyncio.timeout(PATIENCE_S), serving(state) as url:
        leave, stay = asyncio.Event(), asyncio.Event()
        leaver = post_and_leave(url, "/generate_stream", after=b'"index":1', ready=leave)
        stayer = post_and_leave(url, "/generate_stream", after=b'"generated_text":"h', ready=stay)
        tasks = [asyncio.create_task(leaver)]
        await engine.wait_for_orders(1)
        tasks.append(asyncio.create_task(stayer))
        await engine.wait_for_orders(2)
        leave.set()
        await engine.wait_for_cancelled(1)
        engine.release()
        stay.set()
        await asyncio.gather(*tasks)
    assert engine.cancelled == engine.orders[:1]
    assert engine.running == 0


async def call(
    state: AppState,
    route: str,
    gone: asyncio.Event,
    body: bytes = BODY,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> list[Message]:
    """The app by hand, with a client that leaves when `gone` is set."""
    sent: list[Message] = []
    incoming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if incoming:
            return incoming.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "POST",
        "path": route,
        "raw_path": route.encode(),
        "query_string": b"",
        "headers": list(headers),
    }
    await create_app(state)(scope, receive, send)
    return sent


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_client_that_left_before_the_answer_began_is_noticed_too(
    route: str, state: AppState, engine: FakeEngine
) -> None:
    engine.hold()
    gone = asyncio.Event()
    gone.set()
    before = asyncio.all_tasks()
    await call(state, route, gone)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "nobody waits for tokens that will not come"
    assert engine.cancelled == engine.orders
    assert len(engine.orders) == 1


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_server_that_is_told_to_end_frees_the_pages(
    route: str, state: AppState, engine: FakeEngine
) -> None:
    engine.hold()
    serving = asyncio.create_task(call(state, route, asyncio.Event()))
    await engine.wait_for_orders(1)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert engine.cancelled == engine.orders


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_nothing_of_a_request_is_left_when_it_is_answered(
    route: str, state: AppState, engine: FakeEngine
) -> None:
    before = asyncio.all_tasks()
    await call(state, route, asyncio.Event())
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert engine.cancelled == []
    assert engine.running == 0


@pytest.mark.slow
async def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_fault_of_ours(
    state: AppState, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(PATIENCE_S), serving(state) as url:
        where = urlsplit(url)
        _, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        await writer.drain()
        await _answers(url)
        writer.transport.abort()
        await _answers(url)
    assert [each for each in caplog.records if each.levelno >= logging.ERROR] == []


async def _answers(url: str) -> None:
    """The server has come to what was sent before."""
    async with httpx.AsyncClient() as client:
        for _ in range(3):
            assert (await client.get(url + "/livez")).status_code == 200
