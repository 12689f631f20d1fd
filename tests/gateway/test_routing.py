"""HEAD, doubled slashes, compressed bodies, and routes of OpenAI's that are not here."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message

from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from tests.gateway.conftest import key_ring

ClientFor = Callable[[AppState], httpx.AsyncClient]
Serving = Callable[..., Any]


def got(state: AppState) -> list[str]:
    """Every path that answers GET."""
    paths = create_app(state).openapi()["paths"]
    return [path.replace("{model}", "fake") for path, methods in paths.items() if "get" in methods]


async def test_every_get_answers_head_without_a_body(
    state: AppState, client: httpx.AsyncClient
) -> None:
    varies = {"x-request-id", "content-length"}  # ids; figures of /metrics that move on
    assert len(got(state)) > 8
    for path in [*got(state), "/openapi.json", "/dashboard/main.js"]:
        whole, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (whole.status_code, b""), path
        kept = {name: value for name, value in whole.headers.items() if name not in varies}
        assert kept.items() <= dict(head.headers).items(), path
        assert "content-length" in head.headers


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/none", "/nothing"])
async def test_nothing_of_a_body_is_sent_for_head(path: str, state: AppState) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "HEAD", "path": path, "headers": [], "query_string": b""}
    await create_app(state)(scope, receive, send)
    assert sent[0]["type"] == "http.response.start"
    assert b"".join(each.get("body", b"") for each in sent[1:]) == b""


async def test_head_is_answered_over_a_real_connection(state: AppState, serving: Serving) -> None:
    async with serving(state) as url, httpx.AsyncClient() as client:
        for path in ("/v1/models", "/v1/models/none", "/v1/models/fake"):
            head = await client.head(url + path)
            whole = await client.get(url + path)
            assert (head.status_code, head.content) == (whole.status_code, b"")
            assert head.headers["content-length"] == whole.headers["content-length"]


async def test_head_needs_the_key_that_get_needs(state: AppState, client_for: ClientFor) -> None:
    locked = client_for(replace(state, keys=key_ring(state.clock, {"me": "open sesame"})))
    assert (await locked.head("/v1/models")).status_code == 401
    assert (await locked.head("//v1//models")).status_code == 401
    assert (await locked.head("/livez")).status_code == 200
    assert (await locked.get("//livez")).status_code == 200


async def test_where_there_is_no_get_there_is_no_head(client: httpx.AsyncClient) -> None:
    answer = await client.head("/generate")
    assert (answer.status_code, answer.content) == (405, b"")
    assert answer.headers["allow"] == "POST"
    assert (await client.post("/v1/models")).headers["allow"] == "GET, HEAD"


async def test_the_log_tells_head_apart(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await client.head("/livez")
        await client.head("/none")
    told = [(r.levelname, r.__dict__["method"]) for r in caplog.records if r.msg == "request"]
    assert told == [("DEBUG", "HEAD"), ("INFO", "HEAD")]


@pytest.mark.parametrize("path", ["//v1/models", "/v1//models", "///v1///models"])
async def test_doubled_slashes_count_once(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"http://gateway{path}")).json()["data"][0]["id"] == "fake"


async def test_doubled_slashes_post_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("http://gateway//v1//completions", json={"prompt": "x"})
    assert answer.status_code == 200
    missing = await client.post("http://gateway//v1//nothing", json={})
    assert missing.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, identity"])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_compressed_body_is_refused_with_what_is_read(
    path: str, encoding: str, client: httpx.AsyncClient
) -> None:
    body = gzip.compress(b'{"prompt": "x", "inputs": "x"}')
    answer = await client.post(path, content=body, headers={"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    said = answer.json()["error"]
    said = said if isinstance(said, str) else said["message"]
    assert f"encoded as {encoding!r}, and only plain bodies are read" in said


async def test_a_plain_body_may_say_so(client: httpx.AsyncClient) -> None:
    headers = {"Content-Encoding": "identity"}
    answer = await client.post("/generate", json={"inputs": "x"}, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v1/embeddings", "has no embeddings"),
        ("/v1/audio/speech", "has no speech"),
        ("/v1/images/generations", "has no images"),
        ("/v1/moderations", "has no moderations"),
        ("/v1/fine_tuning/jobs", "has no fine-tuning jobs"),
    ],
)
async def test_what_is_not_served_says_so_in_a_sentence(
    path: str, said: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post(path, json={"model": "fake", "input": "x"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert said in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


async def test_what_begins_like_it_is_only_unknown(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/embeddingsx", json={})).json()["error"]
    assert "/openapi.json lists" in error["message"]
