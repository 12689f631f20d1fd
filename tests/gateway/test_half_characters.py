"""Half of a surrogate pair is no character: wherever it stands, it is a 422 that says where.

JSON can spell it, and then nothing can: no tokenizer, no template, no answer.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.errors import Unprocessable
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.json_text import parse_json
from edgeserve.testing import FakeEngine
from tests.gateway.test_openai_chat import AtHome
from tests.gateway.tool_templates import TAGGED_TEMPLATE

SCHEMA = {"type": "object", "properties": {"a": {"enum": ["b"], "pattern": "c"}}}
SAMPLING = {"stop": ["a", "b"], "logit_bias": {"3": 1}, "seed": 1}
OPENAI = {**SAMPLING, "model": "fake", "user": {"id": "u"}}
NATIVE = {
    "inputs": "a",
    "parameters": {**SAMPLING, "grammar": {"type": "json", "value": SCHEMA}},
}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
TOOL = {"name": "f", "description": "d", "parameters": SCHEMA}
CHAT = {
    **OPENAI,
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "s"}], "name": "n"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a", "tool_calls": [CALL]},
        {"role": "tool", "content": "t", "tool_call_id": "c"},
    ],
    "tools": [{"type": "function", "function": TOOL}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": SCHEMA}}
BODIES = [
    ("/generate", NATIVE),
    ("/generate_stream", NATIVE),
    ("/", NATIVE),
    ("/generate", {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "a"}}}),
    ("/v1/completions", {**OPENAI, "prompt": "a", "response_format": FORMAT}),
    ("/v1/completions", {**OPENAI, "prompt": ["a", "b"], "echo": True}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {**OPENAI, "messages": [{"role": "user", "content": "u"}]}),
]


@pytest.fixture
def client(
    state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]
) -> httpx.AsyncClient:
    return client_for(replace(state, chat_template=AtHome(TAGGED_TEMPLATE, {})))


def with_halves(value: Any) -> Iterator[Any]:
    """Copies of the document, each with half a character in another place: in each text, in each
    name, and within what a text says as JSON.
    """
    if isinstance(value, str):
        yield value[:1] + "\ud83d" + value[1:]
        if value.startswith("{"):
            yield value.replace("b", r"\udc00")
    items = enumerate(value) if isinstance(value, list) else ()
    for key, each in value.items() if isinstance(value, dict) else items:
        for changed in with_halves(each):
            copied = copy.copy(value)
            copied[key] = changed
            yield copied
        if isinstance(key, str):
            yield {(name + "\udc00" if name == key else name): v for name, v in value.items()}


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_half_a_character_is_a_422_wherever_text_enters(
    path: str, body: dict[str, Any], client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    bodies = [*with_halves(body)]
    assert len(bodies) >= 8
    for changed in bodies:
        sent = json.dumps(changed).encode()
        answer = await client.post(path, content=sent)
        assert answer.status_code == 422, (answer.text, sent)
        said = answer.json()["error"]["message"] if path.startswith("/v1") else answer.text
        assert "half of a surrogate pair" in said or "function.arguments is" in said
    assert engine.orders == []


@pytest.mark.slow
async def test_every_route_that_reads_json_refuses_it(
    state: AppState, client: httpx.AsyncClient
) -> None:
    """Whatever fields it has: routes to come, too."""
    paths = create_app(state).openapi()["paths"]
    posted = [path for path, item in paths.items() if "requestBody" in item.get("post", {})]
    assert {path for path, _ in BODIES} <= {*posted}
    for path in posted:
        answer = await client.post(path, content=rb'{"a": [{"b": "\udcff"}]}')
        assert (answer.status_code, "a[0].b holds half" in answer.text) == (422, True), path


@pytest.mark.parametrize(
    ("sent", "place"),
    [
        (rb'{"a": [1, {"b": "x\uD800y"}]}', "a[1].b holds"),
        (rb'{"a": {"\udfff": 1}}', "a name in a holds"),
        (rb'{"\udfff": 1}', "a name in the body holds"),
        (rb'"\ud83d\ud83d"', "the body holds"),
        (rb'["\ude00\ud83d"]', "[0] holds"),
        (b'{"' + b"k" * 10**6 + rb'": "\ud800"}', "kkk... holds"),
    ],
)
def test_it_is_told_where_it_is_in_bounded_words(sent: bytes, place: str) -> None:
    with pytest.raises(Unprocessable) as error:
        parse_json(sent)
    assert place in str(error.value)
    assert len(str(error.value)) < 300


def test_whole_pairs_and_what_only_looks_like_half_of_one_are_taken() -> None:
    sent = rb'{"a": "\ud83d\ude00", "b": "\\ud83d", "c": "\ud7ff\ue000"}'
    whole = {"a": "\N{GRINNING FACE}", "b": r"\ud83d", "c": "\ud7ff\ue000"}
    assert parse_json(sent) == whole


@pytest.mark.parametrize("where", ["/v1/%ED%A0%80", "/generate?a=%ED%A0%80", "/v1/models?%ED"])
async def test_no_url_breaks_the_gateway(where: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(where)).status_code < 500


async def test_no_header_breaks_the_gateway(client: httpx.AsyncClient) -> None:
    headers = {b"x-request-id": b"\xed\xa0\x80", b"user-agent": b"\xed\xa0\x80"}
    answer = await client.get("/v1/models", headers=headers)
    assert answer.status_code == 200
