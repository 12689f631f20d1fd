"""Answers that are held to a schema, as the routes give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import jsonschema
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.json_schema import GRAMMAR_BYTES_MAX
from edgeserve.testing import FakeEngine
from tests.gateway.drawn import drawn
from tests.gateway.test_openai_chat import AtHome

ClientFor = Callable[[AppState], httpx.AsyncClient]
SCHEMA = {
    "type": "object",
    "properties": {"size": {"enum": ["small", "large"]}, "count": {"type": "integer", "maximum": 9,
                                                                  "minimum": 0}},
    "required": ["size", "count"],
    "additionalProperties": False,
}  # fmt: skip
HELD = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA, "strict": True}}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
}


@pytest.fixture
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock, drawn(300))


@pytest.fixture
def client(state: AppState, client_for: ClientFor) -> httpx.AsyncClient:
    template = AtHome("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    return client_for(replace(state, chat_template=template))


async def ask(client: httpx.AsyncClient, path: str, **fields: Any) -> Any:
    answer = await client.post(path, json={**PATHS[path], "max_tokens": 40, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def text_of(choice: Any) -> str:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("path", PATHS)
async def test_each_answer_is_what_the_schema_says(path: str, client: httpx.AsyncClient) -> None:
    answer = await ask(client, path, response_format=HELD, n=4)
    for choice in answer["choices"]:
        jsonschema.validate(json.loads(text_of(choice)), SCHEMA)
        assert choice["finish_reason"] == "stop"
    assert len({text_of(choice) for choice in answer["choices"]}) > 1, "each has its own guide"


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_is_complete_ends_whatever_is_ignored(
    path: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await ask(client, path, response_format=HELD, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert engine.orders[0].stop_ids == {2}


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_in_any_format_has_no_guide(
    path: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine._reply = b"hello"
    for form in (None, {"type": "text"}):
        await ask(client, path, response_format=form)
    assert [order.guide for order in engine.orders] == [None, None]


async def test_any_object_is_an_answer(client: httpx.AsyncClient) -> None:
    path = "/v1/completions"
    answer = await ask(client, path, response_format={"type": "json_object"}, max_tokens=60)
    assert text_of(answer["choices"][0]).startswith("{")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "strin"}, "Invalid type: strin"),
        ({"const": "x" * GRAMMAR_BYTES_MAX}, "at most 65536 are read"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "the grammar cannot be followed"),
    ],
    ids=["wrong", "long", "empty"],
)
async def test_a_schema_that_cannot_be_followed_is_refused_before_there_is_an_answer(
    path: str, schema: Any, said: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    answer = await client.post(path, json={**PATHS[path], "response_format": form, "stream": True})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]
    assert len(answer.content) < 600
    assert engine.orders == []


# -- TGI's


async def generate(client: httpx.AsyncClient, grammar: Any) -> Any:
    document = {"inputs": "a", "parameters": {"grammar": grammar, "details": True,
                                              "max_new_tokens": 40}}  # fmt: skip
    answer = await client.post("/generate", json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_tgis_grammars_are_schemas_and_expressions(client: httpx.AsyncClient) -> None:
    answer = await generate(client, {"type": "json", "value": SCHEMA})
    jsonschema.validate(json.loads(answer["generated_text"]), SCHEMA)
    assert answer["details"]["finish_reason"] == "eos_token"
    answer = await generate(client, {"type": "regex", "value": "(yes|no), [0-9]{3}!"})
    assert answer["generated_text"][-5:-4] == " "
    assert answer["generated_text"].split(",")[0] in {"yes", "no"}


async def test_no_grammar_is_as_good_as_nothing(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine._reply = b"hello"
    await generate(client, None)
    assert engine.orders[0].guide is None
