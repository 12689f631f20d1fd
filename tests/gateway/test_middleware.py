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
from starlette.types import Message, Receive, Scope, Send

from edgeserve.clock import ManualClock
from edgeserve.errors import Overloaded, TooSlow, named_errors
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.dashboard import routes as dashboard
from edgeserve.gateway.edge.connection import HEAD_BYTES_MAX, HEADERS_MAX
from edgeserve.gateway.edge.middleware import (
    BODY_BYTES_MAX,
    LimitBody,
    TrackRequest,
    error_response,
)
from edgeserve.gateway.observe.health import OPEN_PATHS as HEALTH_PATHS
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring

ClientFor = Callable[[AppState], httpx.AsyncClient]
Serving = Callable[[AppState], AbstractAsyncContextManager[str]]
KEY = "open sesame"


class Broken(FakeEngine):
    """Has a fault that no one thought of."""

    async def cluster(self) -> dict[str, Any]:
        raise ZeroDivisionError("the secret is 42")


# -- keys --------------------------------------------------------------------------------------


@pytest.fixture
def locked(state: AppState, client_for: ClientFor) -> httpx.AsyncClient:
    return client_for(replace(state, keys=key_ring(state.clock, {"me": KEY})))


def routes(state: AppState) -> list[str]:
    return list(create_app(state).openapi()["paths"])


async def test_every_route_but_the_open_ones_needs_the_key(
    state: AppState, locked: httpx.AsyncClient
) -> None:
    paths = [
        *routes(state),
        *dashboard.FILES,
        *dashboard.ICONS,
        "/openapi.json",
        "/not/yet/thought/of",
    ]
    paths += ["//v1/cluster", "/v1//models", "//metrics", "/livez/", "/dashboard"]
    assert len(paths) > 8
    statuses = {path: (await locked.get("http://gateway" + path)).status_code for path in paths}
    open_paths = HEALTH_PATHS | dashboard.OPEN_PATHS
    assert {path for path, status in statuses.items() if status == 200} == open_paths
    assert {status for path, status in statuses.items() if path not in open_paths} == {401}


async def test_open_paths_are_open_to_those_who_only_look(locked: httpx.AsyncClient) -> None:
    asked = {"inputs": "hello", "parameters": {"max_new_tokens": 1}}
    for path in HEALTH_PATHS | dashboard.OPEN_PATHS:
        assert (await locked.post(path, json=asked)).status_code == 401, path


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
    state: AppState, engine: FakeEngine
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
    await create_app(state)(scope, receive, send)
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
    state: AppState, serving: Serving
) -> None:
    async with serving(state) as url, httpx.AsyncClient() as client:
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
    state: AppState, client_for: ClientFor, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_for(replace(state, engine=Broken(state.clock)))
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

    border = TrackRequest(breaks_off, ManualClock())
    with pytest.raises(type(error)):  # the server cuts the connection
        await border({"type": "http", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["http.response.start"]


async def test_a_websocket_is_closed(state: AppState) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await create_app(state)({"type": "websocket", "path": "/v1/cluster"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# -- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/livez", b"", 405),
        ("/nope", b"", 404),
        ("/generate", b"{", 400),
        ("/generate", b'{"inputs": 1}', 422),
        ("/generate", b" " * (BODY_BYTES_MAX + 1), 413),
        ("/generate_stream", b'{"inputs": "x"}', 200),
        ("/v1/completions", b'{"prompt": "x", "stream": true}', 200),
    ],
)
async def test_a_request_keeps_the_id_that_its_client_gave_it(
    path: str, body: bytes, status: int, client: httpx.AsyncClient
) -> None:
    headers = {"X-Request-ID": "trace-1.2_Z"}
    answer = await client.post(path, content=body, headers=headers)
    assert answer.headers["x-request-id"] == "trace-1.2_Z"
    assert answer.status_code == status


async def test_a_request_without_a_key_has_an_id_as_well(locked: httpx.AsyncClient) -> None:
    answer = await locked.get("/metrics", headers={"X-Request-ID": "trace-1.2_Z"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (401, "trace-1.2_Z")


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
    assert (await client.get("/v1/cluster")).json() == await engine.cluster()


async def test_no_page_loads_scripts_from_elsewhere(client: httpx.AsyncClient) -> None:
    """The framework's own pages would; that of /docs is the dashboard's."""
    assert (await client.get("/redoc")).status_code == 404
    docs = await client.get("/docs")
    assert "//" not in docs.text.replace("<!doctype html>", "")
    assert "script-src 'self'" in docs.headers["content-security-policy"]


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


# -- heads and slow bodies ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"x-long": "x" * HEAD_BYTES_MAX}, {f"x-{i}": "y" for i in range(HEADERS_MAX + 1)}],
    ids=["long", "many"],
)
async def test_too_much_before_the_body_is_refused_in_bounded_words(
    headers: dict[str, str], client: httpx.AsyncClient
) -> None:
    answer = await client.get("/livez", headers=headers)
    assert answer.status_code == 431
    assert answer.json()["head_bytes_max"] == HEAD_BYTES_MAX
    assert re.search(r"URL and \d+ headers have \d+ bytes", answer.json()["error"])
    assert len(answer.text) < 300


async def test_a_long_url_counts_as_well(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez?" + "x" * HEAD_BYTES_MAX)).status_code == 431


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def reads(_scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["more_body"]:
            pass

    arriving = [{"type": "http.request", "body": b"ab", "more_body": True}]

    async def receive() -> Message:
        if not arriving:
            await asyncio.Event().wait()
        return arriving.pop()

    scope: Scope = {"type": "http", "path": "/generate", "headers": []}
    with pytest.raises(TooSlow, match="not complete 0.01 s after its headers") as slow:
        await LimitBody(reads, body_s=0.01)(scope, receive, _unheard)
    assert slow.value.numbers == {"body_s_max": 0.01, "body_bytes": 2}


async def test_after_its_body_a_request_may_take_as_long_as_it_likes() -> None:
    async def serves(_scope: Scope, receive: Receive, _send: Send) -> None:
        assert (await receive())["body"] == b"ab"
        assert (await receive())["type"] == "http.disconnect"

    arriving = [{"type": "http.request", "body": b"ab", "more_body": False}]

    async def receive() -> Message:
        if not arriving:
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}
        return arriving.pop()

    scope: Scope = {"type": "http", "path": "/generate", "headers": []}
    await LimitBody(serves, body_s=0.01)(scope, receive, _unheard)


async def _unheard(_message: Message) -> None:
    raise AssertionError("nothing is to be said")


# -- pages of other origins --------------------------------------------------------------------

PAGE = {"Origin": "https://chat.example"}
MAY_I = {**PAGE, "Access-Control-Request-Method": "POST"}


@pytest.fixture
def shared(state: AppState, client_for: ClientFor) -> httpx.AsyncClient:
    keys = key_ring(state.clock, {"me": KEY})
    return client_for(replace(state, keys=keys, cors_origins=("https://chat.example",)))


async def test_no_other_origin_is_let_in_unless_it_is_named(
    client: httpx.AsyncClient, shared: httpx.AsyncClient
) -> None:
    for answer in (
        await client.options("/generate", headers=MAY_I),
        await client.post("/generate", json={"inputs": "x"}, headers=PAGE),
        await shared.get("/livez", headers={"Origin": "https://evil.example"}),
    ):
        assert "access-control-allow-origin" not in answer.headers
    assert (await client.options("/generate", headers=MAY_I)).status_code == 405


async def test_a_page_of_a_named_origin_may_ask_with_a_key(shared: httpx.AsyncClient) -> None:
    wish = {**MAY_I, "Access-Control-Request-Headers": "authorization,x-stainless-os"}
    allowed = await shared.options("/generate", headers=wish)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://chat.example"
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    headers = {**PAGE, "Authorization": f"Bearer {KEY}"}
    answer = await shared.post("/generate", json={"inputs": "x"}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_a_page_needs_a_key_like_everybody_and_can_read_that_it_does(
    shared: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for headers in (PAGE, MAY_I):
        answer = await shared.post("/generate", json={"inputs": "x"}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    assert engine.orders == []
