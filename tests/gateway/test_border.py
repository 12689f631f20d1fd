"""What every request passes: its id, the key, the bound of its body, and the shape of errors."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from starlette.types import Message

from edgeserve.clock import ManualClock
from edgeserve.errors import Overloaded, named_errors
from edgeserve.gateway.app import create_app
from edgeserve.gateway.border import BODY_BYTES_MAX, Border, error_response
from edgeserve.gateway.health import OPEN_PATHS
from edgeserve.gateway.parts import GatewayParts
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring

ClientFor = Callable[[GatewayParts], httpx.AsyncClient]
Serving = Callable[[GatewayParts], AbstractAsyncContextManager[str]]
KEY = "open sesame"


class Broken(FakeEngine):
    """Has a fault that no one thought of."""

    def cluster(self) -> dict[str, Any]:
        raise ZeroDivisionError("the secret is 42")


# -- keys --------------------------------------------------------------------------------------


@pytest.fixture
def locked(parts: GatewayParts, client_for: ClientFor) -> httpx.AsyncClient:
    return client_for(replace(parts, keys=key_ring(parts.clock, {"me": KEY})))


def routes(parts: GatewayParts) -> list[str]:
    return list(create_app(parts).openapi()["paths"])


async def test_every_route_but_the_open_ones_needs_the_key(
    parts: GatewayParts, locked: httpx.AsyncClient
) -> None:
    paths = [*routes(parts), "/openapi.json", "/not/yet/thought/of", "/", "//livez", "/livez/"]
    assert len(paths) > 8
    statuses = {path: (await locked.get("http://gateway" + path)).status_code for path in paths}
    assert {path for path, status in statuses.items() if status == 200} == OPEN_PATHS
    assert {status for path, status in statuses.items() if path not in OPEN_PATHS} == {401}


async def test_the_right_key_opens(locked: httpx.AsyncClient) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = await locked.get("/v1/cluster", headers={"Authorization": f"{scheme} {KEY}"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (None, "no key was sent; send the header 'Authorization: Bearer KEY'"),
        ("", "the key sent is no key of this server"),
        ("Bearer", "the key sent is no key of this server"),
        ("Bearer ", "the key sent is no key of this server"),
        ("Bearer open sesam", "the key sent is no key of this server"),
        ("Bearer OPEN SESAME", "the key sent is no key of this server"),
        ("Basic open sesame", "the key sent is no key of this server"),
        ("open sesame", "the key sent is no key of this server"),
        ("Bearer \xfc", "the key sent is no key of this server"),
    ],
)
async def test_any_other_key_does_not(
    header: str | None, said: str, locked: httpx.AsyncClient
) -> None:
    headers = {} if header is None else {b"Authorization": header.encode("latin-1")}
    answer = await locked.post("/generate", json={"inputs": "x"}, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error_type"] == "unauthorized"
    assert said in answer.json()["error"]
    assert KEY not in answer.text


async def test_a_forged_host_opens_nothing(locked: httpx.AsyncClient) -> None:
    answer = await locked.get("/v1/cluster", headers={"Host": "gateway/livez?"})
    assert answer.status_code == 401


async def test_without_a_key_everybody_is_let_in(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/cluster")).status_code == 200


# -- bodies ------------------------------------------------------------------------------------


async def test_a_body_that_announces_too_much_is_not_read(
    parts: GatewayParts, engine: FakeEngine
) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing should be read")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/generate",
        "headers": [(b"content-length", str(BODY_BYTES_MAX + 1).encode())],
    }
    await create_app(parts)(scope, receive, send)
    assert sent[0]["status"] == 413
    assert b"announces 2097153 bytes; at most 2097152 are read" in sent[1]["body"]
    assert engine.orders == []


@pytest.mark.parametrize("length", ["9" * 5000, str(10**15)])
async def test_an_absurd_length_is_too_large_and_no_accident(
    length: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/generate", content=b"x", headers={"Content-Length": length})
    assert answer.status_code == 413
    assert len(answer.text) < 300


async def chunks(total_bytes: int) -> AsyncIterator[bytes]:
    for start in range(0, total_bytes, 2**18):
        yield b" " * min(2**18, total_bytes - start)


async def test_a_body_in_chunks_is_read_up_to_the_limit(client: httpx.AsyncClient) -> None:
    too_large = await client.post("/generate", content=chunks(BODY_BYTES_MAX + 1))
    assert too_large.status_code == 413
    assert too_large.json()["error_type"] == "payload_too_large"
    assert too_large.json()["body_bytes_max"] == BODY_BYTES_MAX
    just_fits = await client.post("/generate", content=chunks(BODY_BYTES_MAX))
    assert just_fits.status_code == 400, "it is read, and it is no JSON"


@pytest.mark.slow
async def test_a_body_in_chunks_is_refused_over_a_real_connection(
    parts: GatewayParts, serving: Serving
) -> None:
    async with serving(parts) as url, httpx.AsyncClient() as client:
        answer = await client.post(f"{url}/generate", content=chunks(BODY_BYTES_MAX + 1))
        assert answer.status_code == 413
        again = await client.post(f"{url}/generate", json={"inputs": "x"})
        assert again.status_code == 200


@pytest.mark.parametrize(
    ("body", "said"), [(b"{", "is not JSON"), (b'{"inputs": "\xff"}', "is not UTF-8")]
)
@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_body_that_is_no_json_is_a_bad_request(
    route: str, body: bytes, said: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post(route, content=body)
    assert answer.status_code == 400
    assert answer.json()["error_type"] == "bad_request"
    assert said in answer.json()["error"]


async def test_no_content_type_is_asked_for(client: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # curl's, if it is not told
    answer = await client.post("/generate", content=b'{"inputs": "x"}', headers=headers)
    assert answer.status_code == 200


# -- errors ------------------------------------------------------------------------------------


async def test_a_path_that_is_not_there_is_told_in_our_shape(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nope" + "x" * 5000)
    assert answer.status_code == 404
    assert answer.json()["error_type"] == "not_found"
    assert answer.json()["error"].startswith('there is no "/nopexxx')
    assert len(answer.text) < 400


async def test_a_method_that_a_route_does_not_answer_is_told(client: httpx.AsyncClient) -> None:
    answer = await client.get("/generate")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert answer.json() == {
        "error": '"/generate" answers POST, not GET',
        "error_type": "method_not_allowed",
    }


async def test_a_slash_too_many_is_no_redirect(client: httpx.AsyncClient) -> None:
    assert (await client.post("/generate/", json={"inputs": "x"})).status_code == 404


@pytest.mark.parametrize("kind", named_errors().values())
def test_every_error_has_its_status_and_shape(kind: type[Any]) -> None:
    error = kind("no", retry_after_s=3) if issubclass(kind, Overloaded) else kind("no", bytes=7)
    response = error_response(error)
    document = json.loads(bytes(response.body))
    assert response.status_code == error.http_status
    assert (document["error"], document["error_type"]) == ("no", kind.error_type)
    assert response.headers.get("retry-after") == ("3" if issubclass(kind, Overloaded) else None)


async def test_a_fault_of_ours_is_told_by_id_and_logged_in_full(
    parts: GatewayParts, client_for: ClientFor, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_for(replace(parts, engine=Broken(parts.clock)))
    with caplog.at_level(logging.ERROR):
        answer = await client.get("/v1/cluster", headers={"X-Request-ID": "abc"})
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "a fault of edgeserve; its log says more under request abc",
        "error_type": "internal",
        "request_id": "abc",
    }
    assert "secret" not in answer.text
    assert "request abc failed" in caplog.text
    assert "ZeroDivisionError: the secret is 42" in caplog.text


@pytest.mark.parametrize("error", [ZeroDivisionError(), Overloaded("late", retry_after_s=1)])
async def test_half_an_answer_does_not_end_as_if_it_were_whole(error: Exception) -> None:
    async def breaks_off(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    border = Border(breaks_off, ManualClock())
    with pytest.raises(type(error)):  # the server cuts the connection
        await border({"type": "http", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_websocket_is_closed(parts: GatewayParts) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await create_app(parts)({"type": "websocket", "path": "/v1/cluster"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# -- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/nope", "/generate_stream"])
async def test_a_request_keeps_the_id_that_its_client_gave_it(
    path: str, client: httpx.AsyncClient
) -> None:
    headers = {"X-Request-ID": "trace-1.2_Z"}
    answer = await client.post(path, json={"inputs": "x"}, headers=headers)
    assert answer.headers["x-request-id"] == "trace-1.2_Z"


@pytest.mark.parametrize("wanted", [None, "", "a b", "x" * 65, "new\tline", "\xfc", "../x"])
async def test_an_id_that_is_not_safe_in_a_log_is_replaced(
    wanted: str | None, client: httpx.AsyncClient
) -> None:
    headers = {} if wanted is None else {b"X-Request-ID": wanted.encode("latin-1")}
    given = [(await client.get("/livez", headers=headers)).headers["x-request-id"] for _ in "12"]
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in given)
    assert given[0] != given[1]


# -- the app -----------------------------------------------------------------------------------


async def test_the_cluster_is_as_the_engine_tells_it(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert (await client.get("/v1/cluster")).json() == engine.cluster()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_no_page_loads_scripts_from_elsewhere(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path)).status_code == 404


async def test_the_schema_lists_routes_and_parameters(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert {"/generate", "/generate_stream", "/health", "/v1/cluster"} <= document["paths"].keys()
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    parameters = body["schema"]["properties"]["parameters"]["anyOf"][0]["properties"]
    assert {"max_new_tokens", "stop_token_ids", "truncate"} <= parameters.keys()
    assert "$ref" not in json.dumps(body)


async def test_requests_do_not_disturb_one_another(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    prompts = [chr(97 + i) * 3 for i in range(8)]
    documents = [{"inputs": text, "parameters": {"max_new_tokens": 6}} for text in prompts]
    asked = [client.post("/generate", json=document) for document in documents]
    texts = [answer.json()["generated_text"] for answer in await asyncio.gather(*asked)]
    assert texts == [prompt * 2 for prompt in prompts]
    assert engine.running == 0
