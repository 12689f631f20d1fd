"""Which names a model answers to, and what /v1/models says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.errors import NotFound
from edgeserve.gateway.app_state import AppState, ModelFacts

ClientFor = Callable[[AppState], httpx.AsyncClient]
NAMES = ("org/name", "short", "other/Name-2")


def facts(*names: str) -> ModelFacts:
    return ModelFacts(
        name=names[0], aliases=names[1:], weights="real", context_tokens=64, vocab=300,
        eos_ids=frozenset({2}),
    )  # fmt: skip


@pytest.fixture
def named(state: AppState, client_for: ClientFor) -> httpx.AsyncClient:
    return client_for(replace(state, model=facts(*NAMES)))


@pytest.mark.parametrize(
    ("wanted", "answered"),
    [
        *((name, name) for name in NAMES),
        (None, "org/name"),
        ("tgi", "org/name"),
        ("dummy", "org/name"),
        ("default", "org/name"),
        ("name", "org/name"),
        ("/srv/models/org/name/", "org/name"),
        ("/srv/models/short", "short"),
        ("Name-2", "other/Name-2"),
    ],
)
def test_a_name_of_the_model_is_the_one_in_the_answer(wanted: str | None, answered: str) -> None:
    assert facts(*NAMES).served_as(wanted) == answered


@pytest.mark.parametrize(
    "wanted",
    ["", "/", "elsewhere/name", "org", "org/name/short2", "nam", "ORG/NAME", "TGI", "tgi/other"],
)
def test_another_name_is_another_model(wanted: str) -> None:
    with pytest.raises(NotFound, match="the model is org/name or short or other/Name-2, and no"):
        facts(*NAMES).served_as(wanted)


def test_a_model_may_have_a_placeholder_for_its_name() -> None:
    assert facts("first", "tgi").served_as("tgi") == "tgi"


async def test_an_answer_carries_the_name_that_was_asked_for(named: httpx.AsyncClient) -> None:
    body = {"prompt": "x", "model": "other/Name-2", "max_tokens": 2}
    assert (await named.post("/v1/completions", json=body)).json()["model"] == "other/Name-2"
    streamed = await named.post("/v1/completions", json={**body, "stream": True})
    chunks = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert len(chunks) >= 2
    assert {json.loads(chunk)["model"] for chunk in chunks} == {"other/Name-2"}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ],
)
async def test_a_request_for_another_model_is_openais_404(
    route: str, body: dict[str, Any], named: httpx.AsyncClient
) -> None:
    refused = await named.post(route, json={**body, "model": "gpt-4"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"


async def test_all_names_are_listed_with_the_first_one_first(named: httpx.AsyncClient) -> None:
    listed = (await named.get("/v1/models")).json()["data"]
    assert [each["id"] for each in listed] == list(NAMES)
    assert len({str({**each, "id": ""}) for each in listed}) == 1, "they are one model"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("short", "short"),
        ("org/name", "org/name"),
        ("org%2Fname", "org/name"),
        ("org%2fname", "org/name"),
        ("other/Name%2D2", "other/Name-2"),
        ("tgi", "org/name"),
    ],
)
async def test_a_model_can_be_looked_up_by_each_name(
    path: str, name: str, named: httpx.AsyncClient
) -> None:
    answer = await named.get(f"/v1/models/{path}")
    assert answer.status_code == 200
    listed = (await named.get("/v1/models")).json()["data"]
    assert answer.json() == next(each for each in listed if each["id"] == name)


@pytest.mark.parametrize("path", ["gpt-4", "org", "elsewhere/name", "org%2Fother", ""])
async def test_to_look_up_another_model_is_openais_404(path: str, named: httpx.AsyncClient) -> None:
    answer = await named.get(f"/v1/models/{path}")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error", "model", "model_not_found",
    )  # fmt: skip
