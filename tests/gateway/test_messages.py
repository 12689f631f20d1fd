"""POST /v1/messages and its count of tokens: from messages to a prompt, and from tokens to content
and events.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest

from edgeserve.errors import Overloaded, RateLimited, StageUnavailable
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.anthropic_error import anthropic_error
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring
from tests.gateway.messages import (
    ASK,
    CALLS,
    COUNT,
    HELLO,
    OSLO,
    PATH,
    ROME,
    TOOLS,
    error_of,
    events_of,
    message,
    refusal,
    stream,
)
from tests.gateway.responses import ClientFor, talking

Serving = Callable[..., AbstractAsyncContextManager[str]]
PLAIN = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:"
KEYS = {"alice": "sk-alice", "bob": "sk-bob"}


@pytest.fixture
def model(state: AppState, client_for: ClientFor) -> Callable[..., httpx.AsyncClient]:
    def model(*texts: str, **more: Any) -> httpx.AsyncClient:
        return client_for(talking(state, *texts, **more))

    return model


@pytest.fixture
def client(model: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    """It says the prompt again."""
    return model(template=PLAIN)


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Of a delta, what it adds; several of one block as one."""
    found: list[str] = []
    for event in events:
        kind = event["type"]
        kind = event["delta"]["type"] if kind == "content_block_delta" else kind
        if kind != "text_delta" or found[-1] != kind:
            found.append(kind)
    return found


# -- the prompt --------------------------------------------------------------------------------


async def test_the_system_goes_before_the_messages(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    blocks = [{"type": "text", "text": "be", "cache_control": {"type": "ephemeral"}}]
    await message(client, system="be kind")
    await message(client, system=[*blocks, {"type": "text", "text": "kind"}])
    await message(client, system=[])
    prompts = [bytes(order.prompt) for order in engine.orders]
    assert prompts == [b"s:be kind;u:hello;a:", b"s:be\nkind;u:hello;a:", b"u:hello;a:"]


async def test_sampling_follows_the_request(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await message(client, temperature=0, max_tokens=5)
    await message(client, top_p=0.5, top_k=7, seed=7, stop_sequences=["x"])
    greedy, sampled = engine.orders
    assert (greedy.sampling.temperature, greedy.max_new_tokens) == (0, 5)
    assert (sampled.sampling.temperature, sampled.sampling.top_p) == (1.0, 0.5)
    assert (sampled.sampling.top_k, sampled.sampling.seed) == (7, 7)


async def test_thinking_and_effort_reach_the_template(
    model: Callable[..., httpx.AsyncClient], engine: FakeEngine
) -> None:
    template = "{{ enable_thinking }},{{ reasoning_effort }}!{{ messages[0].content }}"
    client = model(template=template)
    await message(client, thinking={"type": "disabled"}, output_config={"effort": "low"})
    await message(client, thinking={"type": "enabled", "budget_tokens": 1024})
    await message(client, thinking={"type": "adaptive"})
    await message(
        client, thinking={"type": "enabled"}, chat_template_kwargs={"enable_thinking": False}
    )
    assert [bytes(order.prompt).decode() for order in engine.orders] == [
        "False,low!hello", "True,!hello", ",!hello", "False,!hello",
    ]  # fmt: skip


async def test_an_answer_goes_back_as_it_came(state: AppState, client_for: ClientFor) -> None:
    """With what the tools said: the template sees one message with calls, and their results."""
    template = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
    here = talking(state, "Look: " + CALLS, "done", template=template + "<tool_call>{{ tools }}")
    client = client_for(here)
    first = await message(client, tools=TOOLS)
    _, sun, sea = first["content"]
    results = [
        {"type": "tool_result", "tool_use_id": sun["id"], "content": "warm"},
        {
            "type": "tool_result", "tool_use_id": sea["id"], "is_error": True,
            "content": [{"type": "text", "text": "too far"}],
        },
        {"type": "text", "text": "And?"},
    ]  # fmt: skip
    said = {"role": "assistant", "content": first["content"]}
    await message(client, messages=[HELLO, said, {"role": "user", "content": results}], tools=TOOLS)
    engine = here.engine
    assert isinstance(engine, FakeEngine)
    lines = bytes(engine.orders[-1].prompt).decode().split("<tool_call>")[0].splitlines()
    told = [json.loads(line) for line in lines]
    assert [each["role"] for each in told] == ["user", "assistant", "tool", "tool", "user"]
    assert told[1]["content"] == "Look:"
    assert [call["id"] for call in told[1]["tool_calls"]] == [sun["id"], sea["id"]]
    assert told[1]["tool_calls"][0]["function"] == {"name": "sun", "arguments": ROME}
    assert [each["content"] for each in told[2:]] == ["warm", "Error: too far", "And?"]
    assert [each["tool_call_id"] for each in told[2:4]] == [sun["id"], sea["id"]]


# -- a whole answer ----------------------------------------------------------------------------


async def test_text_is_a_block(model: Callable[..., httpx.AsyncClient]) -> None:
    answer = await message(model("Hi \u20ac."))
    assert answer.pop("id").startswith("msg_")
    assert answer.pop("usage")["output_tokens"] == 8
    assert answer == {
        "type": "message", "role": "assistant", "model": "fake", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "Hi \u20ac."}],
    }  # fmt: skip


ENDS: list[tuple[str, dict[str, Any], tuple[str, str | None]]] = [
    ("Hi", {}, ("end_turn", None)),
    ("Hi there", {"max_tokens": 3}, ("max_tokens", None)),
    ("Hi there", {"stop_sequences": ["x", "th"]}, ("stop_sequence", "th")),
    (CALLS, {"tools": TOOLS}, ("tool_use", None)),
    (CALLS + "!", {"tools": TOOLS, "stop_sequences": ["!"]}, ("tool_use", None)),
    (CALLS + "!!", {"tools": TOOLS, "max_tokens": len(CALLS.encode()) + 1}, ("max_tokens", None)),
]


async def test_why_an_answer_ended_is_told(model: Callable[..., httpx.AsyncClient]) -> None:
    client = model(*(text for text, _, _ in ENDS for _ in range(2)))
    for _, asked, expected in ENDS:
        answer = await message(client, **asked)
        assert (answer["stop_reason"], answer["stop_sequence"]) == expected
        told = (await stream(client, **asked))[-2]["delta"]
        assert (told["stop_reason"], told["stop_sequence"]) == expected


async def test_a_stop_sequence_is_not_part_of_the_text(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    answer = await message(model("one two three"), stop_sequences=["two"])
    assert answer["content"] == [{"type": "text", "text": "one "}]


async def test_usage_counts_what_was_cached_apart(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.cached_tokens = 4
    counted = {
        "input_tokens": 6,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 3,
    }
    assert (await message(client, max_tokens=3))["usage"] == counted
    assert (await stream(client, max_tokens=3))[-2]["usage"] == counted


async def test_an_answer_that_says_nothing_has_no_content(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    answer = await message(model(""))
    assert (answer["content"], answer["stop_reason"]) == ([], "end_turn")
    assert kinds(await stream(model(""))) == ["message_start", "message_delta", "message_stop"]
    said = {"role": "assistant", "content": []}
    await message(model("x"), messages=[HELLO, said, HELLO])


async def test_calls_are_blocks_between_texts(model: Callable[..., httpx.AsyncClient]) -> None:
    answer = await message(model(f"I look.\n{CALLS}\nWait\u2026"), tools=TOOLS)
    before, sun, sea, after = answer["content"]
    assert (before["text"], after["text"]) == ("I look.", "\nWait\u2026")
    assert [(call["name"], call["input"]) for call in (sun, sea)] == [
        ("sun", ROME), ("sea", OSLO),
    ]  # fmt: skip
    assert all(each["id"].startswith("toolu_") for each in (sun, sea))
    assert sun["id"] != sea["id"]
    assert answer["stop_reason"] == "tool_use"


async def test_an_answer_is_held_to_a_schema(state: AppState, client_for: ClientFor) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    form = {"type": "json_schema", "schema": schema}
    here = talking(state, '{"a":1}', '{"a":1}', "x")
    client = client_for(here)
    await message(client, output_config={"format": form})
    await message(client, output_format=form)
    await message(client, output_config={"effort": "high"})
    assert isinstance(here.engine, FakeEngine)
    assert [order.guide is not None for order in here.engine.orders] == [True, True, False]


async def test_a_receipt_comes_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    assert "timing" not in await message(client, max_tokens=3)
    answer = await message(client, max_tokens=3, timing=True)
    assert len(answer["timing"]["per_token"]) == 3
    events = await stream(client, max_tokens=3, timing=True)
    assert len(events[-2]["timing"]["per_token"]) == 3
    assert "timing" not in (await stream(client, max_tokens=3))[-2]


async def test_weights_that_mean_nothing_are_told(state: AppState, client_for: ClientFor) -> None:
    here = talking(state, template=PLAIN)
    client = client_for(replace(here, model=replace(here.model, weights="random")))
    assert (await message(client, max_tokens=1))["weights"] == "random"
    assert (await stream(client, max_tokens=1))[0]["message"]["weights"] == "random"


# -- a stream ----------------------------------------------------------------------------------


async def test_a_stream_tells_of_each_block(model: Callable[..., httpx.AsyncClient]) -> None:
    events = await stream(model(f"I look.\n{CALLS}"), tools=TOOLS)
    text = ["content_block_start", "text_delta", "content_block_stop"]
    call = ["content_block_start", "input_json_delta", "content_block_stop"]
    assert kinds(events) == ["message_start", *text, *call, *call, "message_delta", "message_stop"]
    head = events[0]["message"]
    assert (head["content"], head["stop_reason"], head["usage"]["output_tokens"]) == ([], None, 0)
    places = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert places == [0, 1, 2]
    starts = [each["content_block"] for each in events if each["type"] == "content_block_start"]
    assert starts[0] == {"type": "text", "text": ""}
    assert [start["input"] for start in starts[1:]] == [{}, {}]
    state = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert [json.loads(each["partial_json"]) for each in state if "partial_json" in each] == [
        ROME,
        OSLO,
    ]


async def test_a_stream_that_breaks_off_says_so(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("stage 1 is lost", stage=1), after_tokens=2)
    *_, last = await stream(client)
    assert last["type"] == "error"
    details = {"error_code": "stage_unavailable", "retryable": True, "stage": 1}
    assert last["error"] == {
        "type": "api_error", "message": "stage 1 is lost", "details": details,
    }  # fmt: skip


async def test_silence_is_filled_with_pings(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold(after_tokens=1)
    here = replace(talking(state, template=PLAIN), keep_alive_s=0.01)
    body = {**ASK, "stream": True, "max_tokens": 2}
    async with (
        serving(here) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", url + PATH, json=body) as answer,
    ):
        text = ""
        async for chunk in answer.aiter_text():
            text += chunk
            if "event: ping" in text:
                engine.release()
    assert events_of(text)[-1]["type"] == "message_stop"


async def test_a_call_that_is_held_back_is_no_silence(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    answer = await model(CALLS).post(PATH, json={**ASK, "tools": TOOLS, "stream": True})
    assert answer.text.count("event: ping\n") == len(CALLS.encode()) + 1 - 2  # those that end one


# -- what is refused ---------------------------------------------------------------------------


async def test_errors_have_the_shape_that_clients_read(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    error = await refusal(client, max_tokens=0)
    assert error["type"] == "invalid_request_error"
    assert "max_tokens is 0, but must be a whole number from 1" in error["message"]
    error = await refusal(client, max_tokens=5000)
    assert "set max_tokens to at most 3990" in error["message"]
    assert error["details"]["error_code"] == "validation"
    engine.overload(retry_after_s=3)
    answer = await client.post(PATH, json={**ASK, "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert error_of(answer)["type"] == "overloaded_error"


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", PATH, 405, "invalid_request_error"),
        ("GET", COUNT, 405, "invalid_request_error"),
        ("POST", PATH + "/batches", 404, "not_found_error"),
        ("POST", PATH, 400, "invalid_request_error"),
    ],
)
async def test_what_comes_from_around_the_routes_has_it_too(
    method: str, path: str, status: int, kind: str, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path, content=b"no json")
    assert answer.status_code == status
    assert error_of(answer)["type"] == kind


def test_each_error_has_a_type_of_anthropics() -> None:
    busy = [Overloaded("full", retry_after_s=1), RateLimited("yours", retry_after_s=1)]
    told = [anthropic_error(error, "r")["error"]["type"] for error in busy]
    assert told == ["overloaded_error", "rate_limit_error"]


async def test_too_long_a_body_is_told(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, content=b" " * (2 * 2**20 + 1))
    assert answer.status_code == 413
    error = answer.json()["error"]  # the client has no model of this one
    assert error["type"] == "request_too_large"
    assert "at most 2097152 are read" in error["message"]


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_another_model_is_not_found_and_the_way_to_it_is_told(
    path: str, client: httpx.AsyncClient
) -> None:
    body = {"messages": [HELLO], "model": "claude-opus-4-8"}
    answer = await client.post(path, json=body if path == COUNT else {**ASK, **body})
    assert answer.status_code == 404
    error = error_of(answer)
    assert error["type"] == "not_found_error"
    assert "the model is fake, and no other is served" in error["message"]
    assert "ANTHROPIC_MODEL=fake" in error["message"]
    assert "--served-model-name fake,NAME" in error["message"]


async def test_a_name_of_anthropics_may_be_one_of_ours(
    state: AppState, client_for: ClientFor
) -> None:
    here = talking(state, template=PLAIN)
    facts = replace(here.model, aliases=("claude-opus-4-8",))
    client = client_for(replace(here, model=facts))
    assert (await message(client, model="claude-opus-4-8"))["model"] == "claude-opus-4-8"


# -- keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x-api-key": "sk-alice"}, 200),
        ({"authorization": "Bearer sk-bob"}, 200),
        ({"authorization": "Bearer none", "x-api-key": "sk-alice"}, 200),
        ({"authorization": "Bearer sk-alice", "x-api-key": "none"}, 200),
        ({"x-api-key": "none"}, 401),
        ({"x-api-key": "Bearer sk-alice"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Basic sk-alice"}, 401),
        ({}, 401),
    ],
)
async def test_a_key_may_come_in_either_header(
    headers: dict[str, str], status: int, state: AppState, client_for: ClientFor
) -> None:
    here = talking(state, template=PLAIN)
    client = client_for(replace(here, keys=key_ring(state.clock, KEYS)))
    answer = await client.post(PATH, json=ASK, headers=headers)
    assert answer.status_code == status
    if status == 401:
        error = error_of(answer)
        assert error["type"] == "authentication_error"
        assert "'x-api-key: KEY'" in error["message"]
    other = await client.get("/v1/models", headers=headers)
    assert other.status_code == status


# -- counting ----------------------------------------------------------------------------------


async def test_tokens_are_counted_through_the_same_template(
    state: AppState, client_for: ClientFor
) -> None:
    here = talking(state)
    client = client_for(here)
    for more in ({}, {"tools": TOOLS, "system": "be kind"}, {"thinking": {"type": "adaptive"}}):
        answer = await client.post(COUNT, json={"messages": [HELLO], **more})
        assert answer.status_code == 200, answer.text
        counted = anthropic.types.MessageTokensCount.model_validate_json(answer.text, strict=True)
        assert isinstance(here.engine, FakeEngine)
        before = len(here.engine.orders)
        asked = await message(client, **more)
        assert len(here.engine.orders) == before + 1
        assert asked["usage"]["input_tokens"] == counted.input_tokens


async def test_a_count_takes_no_bound_and_what_an_answer_would_not_fit(
    client: httpx.AsyncClient,
) -> None:
    long = [{"role": "user", "content": "x" * 9000}]
    answer = await client.post(COUNT, json={"messages": long})
    assert answer.json() == {"input_tokens": 9005}
    answer = await client.post(COUNT, json=ASK)
    assert answer.status_code == 422
    assert '"max_tokens" is not known' in error_of(answer)["message"]
