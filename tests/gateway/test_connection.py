"""What a client may do to a connection, over real ones: how much it may send, how slowly, how many
it may open.
"""

from __future__ import annotations

import asyncio
import json
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.connection import HEAD_BYTES_MAX, HEADERS_MAX, MESSAGE_BYTES_MAX, Bounds
from edgeserve.testing import FakeEngine

Serving = Callable[..., AbstractAsyncContextManager[str]]
HURRIED = Bounds(connections=3, head_s=0.2, body_s=0.2, unread_s=0.2)
REQUEST = b'POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 15\r\n\r\n{"inputs": "a"}'
ASKS_FOR_HTTP_2 = REQUEST.replace(
    b"host: x", b"host: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c"
)
"""As Java's own client does, unless told not to."""
PATIENCE_S = 10
MIB = 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(30)]


@asynccontextmanager
async def connected(
    url: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield reader, writer
    finally:
        writer.transport.abort()


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), await body_of(reader, head)


async def body_of(reader: asyncio.StreamReader, head: bytes) -> dict[str, Any]:
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    document: dict[str, Any] = json.loads(await reader.readexactly(length))
    return document


async def is_closed(reader: asyncio.StreamReader) -> bool:
    with suppress(ConnectionResetError):
        return await reader.read(1) == b""
    return True


# -- how much


async def test_headers_without_an_end_are_cut_off_and_not_kept(
    state: AppState, serving: Serving
) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with serving(state) as url, connected(url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nx-long: ")
        sent = 0
        with suppress(ConnectionError):
            for _ in range(100):
                writer.write(b"x" * MIB)
                await writer.drain()
                sent += 1
        assert await is_closed(reader) or sent < 100
    assert sent < 20, "what the two sockets hold, and no more"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 30 * 1024


@pytest.mark.parametrize(
    "head",
    [
        b"x-long: " + b"x" * HEAD_BYTES_MAX,
        b"\r\n".join(b"x-%d: y" % i for i in range(HEADERS_MAX + 1)),
    ],
    ids=["long", "many"],
)
async def test_headers_with_an_end_that_are_too_many_are_told_so(
    head: bytes, state: AppState, serving: Serving
) -> None:
    async with serving(state) as url, connected(url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\n" + head + b"\r\n\r\n")
        status, document = await answer_of(reader)
    assert (status, document["error_type"]) == (431, "headers_too_large")


async def test_as_many_headers_as_are_taken_are_taken(state: AppState, serving: Serving) -> None:
    headers = {f"x-{i}": "y" * 200 for i in range(HEADERS_MAX - 10)}
    async with serving(state) as url, httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/livez", headers=headers)
    assert answer.status_code == 200


async def test_a_body_that_goes_on_behind_its_refusal_is_cut_off(
    state: AppState, serving: Serving
) -> None:
    async with serving(state) as url, connected(url) as (reader, writer):
        writer.write(b"POST /nope HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        status, _ = await answer_of(reader)
        sent = 0
        with suppress(ConnectionError):
            while sent < 4 * MESSAGE_BYTES_MAX:
                writer.write(b"100000\r\n" + b"x" * MIB + b"\r\n")
                await writer.drain()
                sent += MIB
        assert await is_closed(reader)
    assert status == 404
    assert sent < 3 * MESSAGE_BYTES_MAX


# -- how slowly


async def test_who_says_nothing_is_cut_off_without_a_word(
    state: AppState, serving: Serving
) -> None:
    async with serving(state, HURRIED) as url, connected(url) as (reader, _):
        assert await is_closed(reader)


async def test_who_does_not_come_to_an_end_is_told_and_cut_off(
    state: AppState, serving: Serving
) -> None:
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nx: ")
        status, document = await answer_of(reader)
        assert await is_closed(reader)
    assert (status, document["error_type"]) == (408, "too_slow")
    assert document["error"] == "the headers were not complete within 0.2 s; send faster"


async def test_a_trickle_does_not_buy_time(state: AppState, serving: Serving) -> None:
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        status, _ = await answer_while_trickling(reader, writer, b"GET /livez HTTP/1.1\r\nx: ")
        assert status == 408


async def test_a_body_that_trickles_is_told_and_cut_off(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        status, document = await answer_while_trickling(reader, writer, REQUEST[:-14])
    assert (status, document["error"]) == (
        408,
        "the body was not complete within 0.2 s; send faster",
    )
    assert engine.orders == []


async def answer_while_trickling(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin: bytes
) -> tuple[int, dict[str, Any]]:
    async def trickle() -> None:
        writer.write(begin)
        for _ in range(13):
            writer.write(b" ")
            await asyncio.sleep(0.05)

    trickling = asyncio.create_task(trickle())
    try:
        return await answer_of(reader)
    finally:
        trickling.cancel()


async def test_a_long_answer_is_not_a_slow_request(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold()
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        writer.write(REQUEST)
        await engine.wait_for_orders(1)
        await asyncio.sleep(2 * HURRIED.body_s)
        engine.release()
        status, _ = await answer_of(reader)
        assert status == 200
        await asyncio.sleep(1.5 * HURRIED.head_s)
        writer.write(REQUEST)
        status, _ = await answer_of(reader)
        assert status == 200, "between two requests the connection may rest"


async def test_blank_lines_behind_an_answer_do_not_keep_a_connection(
    state: AppState, serving: Serving
) -> None:
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await answer_of(reader))[0] == 200
        writer.write(b"\r\n")  # no request begins with it, but something has come
        async with asyncio.timeout(3):
            assert await is_closed(reader)


async def test_who_takes_nothing_of_what_he_asked_for_is_cut_off(
    state: AppState, serving: Serving
) -> None:
    asked = b"GET /dashboard/dashboard.css HTTP/1.1\r\n\r\n" * 2000
    async with serving(state, HURRIED) as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port)) as deaf:
            await asyncio.to_thread(deaf.sendall, asked)
            await asyncio.sleep(10 * HURRIED.unread_s)
            deaf.settimeout(PATIENCE_S)
            taken = await asyncio.to_thread(all_of, deaf)
    assert taken < 2000 * 4096


def all_of(connection: socket.socket) -> int:
    """How many bytes are there until it ends, in whatever way."""
    taken = 0
    with suppress(ConnectionError):
        while part := connection.recv(MIB):
            taken += len(part)
    return taken


async def test_who_is_cut_off_amid_an_answer_does_not_find_an_error_in_it(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold()
    async with serving(state, HURRIED) as url, connected(url) as (reader, writer):
        writer.write(REQUEST + REQUEST[:-5])
        assert await is_closed(reader)
        await engine.wait_for_cancelled(1)


# -- what


@pytest.mark.parametrize("split", [len(ASKS_FOR_HTTP_2), -15, 30])
async def test_a_client_that_would_rather_speak_http_2_is_served_without(
    split: int, state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    async with serving(state) as url, connected(url) as (reader, writer):
        for _ in range(2):
            writer.write(ASKS_FOR_HTTP_2[:split])
            await asyncio.sleep(0.05)
            writer.write(ASKS_FOR_HTTP_2[split:] + ASKS_FOR_HTTP_2)
            assert [(await answer_of(reader))[0] for _ in range(2)] == [200, 200]
        writer.write(b"CONNECT x:1 HTTP/1.1\r\n\r\n")
        assert (await answer_of(reader))[0] == 400
    assert len(engine.orders) == 4


async def test_what_is_no_http_is_told_so_as_any_other_mistake(
    state: AppState, serving: Serving
) -> None:
    async with serving(state) as url, connected(url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nno header\r\n\r\n")
        status, document = await answer_of(reader)
        assert await is_closed(reader)
    assert (status, document["error_type"]) == (400, "bad_request")


async def test_what_is_no_http_amid_an_answer_puts_nothing_into_it(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold()
    stream = REQUEST.replace(b"/generate", b"/generate_stream")
    async with serving(state) as url, connected(url) as (reader, writer):
        writer.write(stream)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"no HTTP at all\r\n\r\n")
        rest = await reader.read()
        await engine.wait_for_cancelled(1)
    assert b" 200 " in head
    assert b"400" not in rest


# -- how many


async def test_one_connection_too_many_is_told_and_closed_and_the_others_are_not(
    state: AppState, serving: Serving
) -> None:
    bounds = Bounds(connections=2)
    async with serving(state, bounds) as url, connected(url) as first, connected(url) as second:
        for reader, writer in (first, second):
            writer.write(b"GET /livez HTTP/1.1\r\n\r\n")
            assert (await answer_of(reader))[0] == 200
        async with connected(url) as (reader, _):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nretry-after: 1\r\n" in head
            assert (await body_of(reader, head))["connections_max"] == 2
            assert await is_closed(reader)
        second[1].transport.abort()
        async with httpx.AsyncClient() as client:
            while (await client.get(f"{url}/livez")).status_code == 429:
                await asyncio.sleep(0.01)
        first[1].write(b"GET /livez HTTP/1.1\r\n\r\n")
        assert (await answer_of(first[0]))[0] == 200
