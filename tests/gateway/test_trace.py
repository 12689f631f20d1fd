"""GET /trace over HTTP. What is in it, tests/timing/test_trace.py tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from edgeserve.gateway.app_state import AppState
from tests.gateway.conftest import key_ring
from tests.timing.trace_schema import check_trace


async def test_it_opens_as_a_chrome_trace(client: httpx.AsyncClient) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": 6}}
    await client.post("/generate", json=body)
    answer = await client.get("/trace")
    assert answer.headers["content-type"] == "application/json"
    document = json.loads(answer.text)
    assert document["displayTimeUnit"] == "ms"
    check_trace(document["traceEvents"], rows=3)
    drawn = [each for each in document["traceEvents"] if each["ph"] == "X" and each["tid"] == 2]
    assert [each["args"]["frame"] for each in drawn] == [0, 1, 2, 3, 4, 5]


async def test_before_the_first_step_it_is_empty_and_still_a_trace(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/trace")).json()
    check_trace(document["traceEvents"], rows=3)


@pytest.mark.parametrize("path", ["/trace", "/metrics"])
async def test_it_is_closed_to_those_without_the_key(
    path: str, state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]
) -> None:
    client = client_for(replace(state, keys=key_ring(state.clock, {"me": "open"})))
    assert (await client.get(path)).status_code == 401
    key = {"authorization": "Bearer open"}
    assert (await client.get(path, headers=key)).status_code == 200
