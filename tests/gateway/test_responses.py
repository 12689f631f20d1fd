"""POST /v1/responses: from input to a prompt, and from tokens to items and events."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.errors import StageUnavailable
from edgeserve.gateway.app_state import AppState
from edgeserve.testing import LOGPROB, FakeEngine
from tests.gateway.responses import PATH, ClientFor, events_of, respond, stream, talking

Serving = Callable[..., AbstractAsyncContextManager[str]]
PLAIN = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}a:"
TOOLS = [
    {"type": "function", "name": name, "description": "Of a place."} for name in ("sun", "sea")
]
ROME = '{"city": "Rome \u20ac"}'
OSLO = '{"city": "Oslo"}'
CALLS = (
    f'<tool_call>\n{{"name": "sun", "arguments": {ROME}}}\n</tool_call>\n'
    f'<tool_call>\n{{"name": "sea", "arguments": {OSLO}}}\n</tool_call>'
)
MESSAGE = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]
CALL = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


@pytest.fixture
def model(state: AppState, client_for: ClientFor) -> Callable[..., httpx.AsyncClient]:
    def model(*texts: str, **more: Any) -> httpx.AsyncClient:
        return client_for(talking(state, *texts, **more))

    return model


@pytest.fixture
def client(model: Callable[..., httpx.AsyncClient]) -> httpx.AsyncClient:
    """It says the prompt again."""
    return model(template=PLAIN)


def text_of(response: dict[str, Any]) -> str:
    (message,) = response["output"]
    (part,) = message["content"]
    assert isinstance(part["text"], str)
    return part["text"]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Deltas that follow each other as one."""
    found: list[str] = []
    for event in events:
        if event["type"] != "response.output_text.delta" or found[-1] != event["type"]:
            found.append(event["type"])
    return found


# -- the prompt --------------------------------------------------------------------------------


async def test_instructions_go_before_the_input(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await respond(client, instructions="be kind", input="hello")
    assert bytes(engine.orders[0].prompt) == b"s:be kind;u:hello;a:"
    assert engine.orders[0].max_new_tokens == 1024


async def test_a_string_is_a_message_of_its_user(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    state = [{"type": "input_text", "text": "hel"}, {"type": "input_text", "text": "lo"}]
    await respond(client, input="hello")
    await respond(client, input=[{"role": "user", "content": "hello"}])
    await respond(client, input=[{"type": "message", "role": "user", "content": state}])
    prompts = [bytes(order.prompt) for order in engine.orders]
    assert prompts == [b"u:hello;a:", b"u:hello;a:", b"u:hel\nlo;a:"]


async def test_sampling_follows_the_request(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await respond(client, temperature=0, max_output_tokens=5)
    await respond(client, top_p=0.5, seed=7, stop=["x"], reasoning={"effort": "low"})
    greedy, sampled = engine.orders
    assert (greedy.sampling.temperature, greedy.max_new_tokens) == (0, 5)
    assert (sampled.sampling.temperature, sampled.sampling.top_p) == (1.0, 0.5)
    assert sampled.sampling.seed == 7


async def test_the_effort_reaches_the_template(
    model: Callable[..., httpx.AsyncClient], engine: FakeEngine
) -> None:
    client = model(template="{{ reasoning_effort }}!{{ messages[0].content }}")
    await respond(client, reasoning={"effort": "low", "summary": "auto"})
    await respond(client)
    assert [bytes(order.prompt) for order in engine.orders] == [b"low!hello", b"!hello"]


async def test_an_answer_goes_back_as_it_came(state: AppState, client_for: ClientFor) -> None:
    """With what a function said: the template sees one message with calls, and their results."""
    template = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}"
    here = talking(state, "Look: " + CALLS, "done", template=template + "<tool_call>{{ tools }}")
    client = client_for(here)
    first = await respond(client, tools=TOOLS)
    _, sun, sea = first["output"]
    results = [
        {"type": "function_call_output", "call_id": call["call_id"], "output": output}
        for call, output in ((sun, "warm"), (sea, [{"type": "input_text", "text": "wet"}]))
    ]
    asked = [{"role": "user", "content": "hello"}, *first["output"], *results]
    await respond(client, input=asked, tools=TOOLS)
    engine = here.engine
    assert isinstance(engine, FakeEngine)
    lines = bytes(engine.orders[-1].prompt).decode().split("<tool_call>")[0].splitlines()
    told = [json.loads(line) for line in lines]
    assert [message["role"] for message in told] == ["user", "assistant", "tool", "tool"]
    assert told[1]["content"] == "Look:"
    assert [call["id"] for call in told[1]["tool_calls"]] == [sun["call_id"], sea["call_id"]]
    assert told[1]["tool_calls"][0]["function"] == {"name": "sun", "arguments": json.loads(ROME)}
    assert [message["content"] for message in told[2:]] == ["warm", "wet"]
    assert [message["tool_call_id"] for message in told[2:]] == [sun["call_id"], sea["call_id"]]


# -- a whole answer ----------------------------------------------------------------------------


async def test_a_response_says_how_its_request_was_understood(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    asked = {
        "instructions": "be kind", "max_output_tokens": 90, "metadata": {"a": "b"},
        "parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s",
        "temperature": 0.5, "tool_choice": {"type": "function", "name": "sea"}, "top_p": 0.9,
        "top_logprobs": 2, "user": "u", "model": "fake",
    }  # fmt: skip
    client = model('<tool_call>\n{"name": "sea", "arguments": {}}\n</tool_call>')
    response = await respond(client, **asked, tools=TOOLS)
    assert {key: response[key] for key in asked} == asked
    assert response["id"].startswith("resp_")
    assert (response["store"], response["background"]) == (False, False)
    assert response["previous_response_id"] is None
    assert response["tools"][0] == {**TOOLS[0], "parameters": None, "strict": None}


async def test_text_is_a_message(model: Callable[..., httpx.AsyncClient]) -> None:
    response = await respond(model("Hi \u20ac."))
    (message,) = response["output"]
    assert message.pop("id").startswith("msg_")
    part = {"type": "output_text", "text": "Hi \u20ac.", "annotations": [], "logprobs": []}
    assert message == {
        "type": "message", "status": "completed", "role": "assistant", "content": [part],
    }  # fmt: skip
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    assert response["completed_at"] >= response["created_at"]


async def test_an_answer_that_is_cut_off_is_incomplete(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    response = await respond(model("Hi there"), max_output_tokens=3)
    assert (response["status"], response["output"][0]["status"]) == ("incomplete", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["completed_at"] is None
    assert text_of(response) == "Hi "
    assert response["usage"]["output_tokens"] == 3


async def test_usage_tells_of_the_prompt_and_what_of_it_was_cached(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.cached_tokens = 4
    response = await respond(client, max_output_tokens=3)
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 13,
    }


async def test_an_answer_that_says_nothing_is_an_empty_message(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    assert text_of(await respond(model(""))) == ""
    events = await stream(model(""))
    assert kinds(events)[2:-1] == [kind for kind in MESSAGE if not kind.endswith("delta")]


async def test_calls_are_items_of_their_own(model: Callable[..., httpx.AsyncClient]) -> None:
    response = await respond(model(f"I look.\n{CALLS}\nWait\u2026"), tools=TOOLS)
    before, sun, sea, after = response["output"]
    assert before["content"][0]["text"] == "I look."
    assert after["content"][0]["text"] == "\nWait\u2026"
    assert [(call["name"], call["arguments"]) for call in (sun, sea)] == [
        ("sun", ROME), ("sea", OSLO),
    ]  # fmt: skip
    assert all(each["id"].startswith("fc_") for each in (sun, sea))
    assert all(each["call_id"].startswith("call_") for each in (sun, sea))
    assert len({each[key] for each in (sun, sea) for key in ("id", "call_id")}) == 4
    assert response["status"] == "completed"


async def test_logprobs_come_when_they_are_asked_for(client: httpx.AsyncClient) -> None:
    asked: dict[str, Any] = {"max_output_tokens": 3, "input": "\u20ac"}
    include = ["message.output_text.logprobs", "reasoning.encrypted_content"]
    bare = await respond(client, **asked, include=include[1:])
    assert bare["output"][0]["content"][0]["logprobs"] == []
    response = await respond(client, **asked, include=include, top_logprobs=2)
    entries = response["output"][0]["content"][0]["logprobs"]
    assert [entry["bytes"] for entry in entries] == [[117], [58], [0xE2]]
    assert entries[0]["logprob"] == LOGPROB
    assert [each["token"] for each in entries[0]["top_logprobs"]] == ["u", "v"]
    events = await stream(client, **asked, include=include, top_logprobs=2)
    deltas = [each for each in events if each["type"] == "response.output_text.delta"]
    assert [entry for each in deltas for entry in each["logprobs"]] == entries[: len(deltas)]
    (done,) = [each for each in events if each["type"] == "response.output_text.done"]
    assert done["logprobs"] == entries


async def test_an_answer_is_held_to_a_schema(state: AppState, client_for: ClientFor) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    here = talking(state, '{"a":1}', "{}", "x")
    client = client_for(here)
    response = await respond(client, text={"format": form, "verbosity": "low"})
    assert response["text"] == {"format": form, "verbosity": "low"}
    await respond(client, text={"format": {"type": "json_object"}})
    await respond(client, text={"format": {"type": "text"}})
    assert isinstance(here.engine, FakeEngine)
    assert [order.guide is not None for order in here.engine.orders] == [True, True, False]


async def test_beside_tools_an_answer_in_json_may_be_a_call(
    state: AppState, client_for: ClientFor
) -> None:
    here = talking(state, CALLS, '{"a":1}')
    asked: dict[str, Any] = {"tools": TOOLS, "text": {"format": {"type": "json_object"}}}
    called = await respond(client_for(here), **asked)
    assert [item["type"] for item in called["output"]] == ["function_call"] * 2
    assert text_of(await respond(client_for(here), **asked)) == '{"a":1}'
    assert isinstance(here.engine, FakeEngine)
    assert all(order.guide is not None for order in here.engine.orders)


async def test_a_call_that_had_to_come_and_did_not_is_an_error(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    asked = {"tools": TOOLS, "tool_choice": "required", "max_output_tokens": 5}
    answer = await model(CALLS).post(PATH, json={"input": "hello", **asked})
    assert answer.status_code == 422
    assert "a function had to be called" in answer.json()["error"]["message"]
    *_, error, failed = await stream(model(CALLS), **asked)
    assert (error["type"], failed["type"]) == ("error", "response.failed")
    assert "a function had to be called" in failed["response"]["error"]["message"]


async def test_a_receipt_comes_when_it_is_asked_for(client: httpx.AsyncClient) -> None:
    assert "timing" not in await respond(client, max_output_tokens=3)
    response = await respond(client, max_output_tokens=3, timing=True)
    assert len(response["timing"]["per_token"]) == 3
    *_, last = await stream(client, max_output_tokens=3, timing=True)
    assert len(last["response"]["timing"]["per_token"]) == 3


# -- a stream ----------------------------------------------------------------------------------


async def test_a_stream_tells_of_text_as_it_comes(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    events = await stream(model("Hi \u20ac."))
    assert kinds(events) == [
        "response.created", "response.in_progress", *MESSAGE, "response.completed",
    ]  # fmt: skip
    deltas = [each["delta"] for each in events if each["type"] == "response.output_text.delta"]
    assert deltas == ["H", "i", " ", "\u20ac", "."]
    assert len({each["item_id"] for each in events if "item_id" in each}) == 1
    added = next(each["item"] for each in events if each["type"].endswith("item.added"))
    assert (added["status"], added["content"]) == ("in_progress", [])
    assert events[0]["response"]["output"] == []
    assert events[0]["response"]["status"] == "in_progress"
    assert text_of(events[-1]["response"]) == "Hi \u20ac."


async def test_a_stream_tells_of_calls_when_they_are_complete(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    events = await stream(model(f"I look.\n{CALLS}"), tools=TOOLS)
    assert kinds(events)[2:-1] == [*MESSAGE, *CALL, *CALL]
    done = [each for each in events if each["type"] == "response.output_item.done"]
    assert [each["output_index"] for each in done] == [0, 1, 2]
    assert [each["item"] for each in done] == events[-1]["response"]["output"]
    delta = next(each for each in events if each["type"].endswith("arguments.delta"))
    assert delta["delta"] == ROME


@pytest.mark.parametrize("said", ["Hi.", f"I look.\n{CALLS}\nWait", CALLS, ""])
async def test_a_stream_ends_with_what_a_whole_answer_says(
    said: str, model: Callable[..., httpx.AsyncClient]
) -> None:
    def comparable(response: dict[str, Any]) -> Any:
        bare = [
            {key: value for key, value in item.items() if key not in ("id", "call_id")}
            for item in response["output"]
        ]
        changing = ("id", "created_at", "completed_at", "output")
        return bare, {key: value for key, value in response.items() if key not in changing}

    *_, last = await stream(model(said), tools=TOOLS)
    assert comparable(last["response"]) == comparable(await respond(model(said), tools=TOOLS))


async def test_a_stream_that_is_cut_off_ends_incomplete(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    *_, done, last = await stream(model("Hi there"), max_output_tokens=3)
    assert done["item"]["status"] == "incomplete"
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_stream_that_breaks_off_says_so_twice(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("stage 1 is lost", stage=1), after_tokens=2)
    *_, error, failed = await stream(client)
    assert (error["type"], error["code"]) == ("error", "stage_unavailable")
    assert error["message"] == "stage 1 is lost"
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "stage 1 is lost"}


async def test_what_keeps_an_answer_from_beginning_is_a_status(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.overload(retry_after_s=3)
    answer = await client.post(PATH, json={"input": "hello", "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["error"]["type"] == "rate_limit_error"


async def test_silence_is_filled_with_comments(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold(after_tokens=1)
    here = replace(talking(state, template=PLAIN), keep_alive_s=0.01)
    body = {"input": "hello", "stream": True, "max_output_tokens": 2}
    async with (
        serving(here) as url,
        httpx.AsyncClient() as client,
        client.stream("POST", url + PATH, json=body) as answer,
    ):
        text = ""
        async for chunk in answer.aiter_text():
            text += chunk
            if ": keep-alive" in text:
                engine.release()
    assert events_of(text)[-1]["type"] == "response.incomplete"


# -- what is kept ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("path", ["/resp_1", "/resp_1/input_items"])
async def test_no_response_is_kept(method: str, path: str, client: httpx.AsyncClient) -> None:
    answer = await client.request(method, PATH + path)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert "none is stored here" in error["message"]
    assert error["type"] == "invalid_request_error"


async def test_another_model_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.post(PATH, json={"input": "hello", "model": "gpt-4"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


async def test_weights_that_mean_nothing_are_told(state: AppState, client_for: ClientFor) -> None:
    here = talking(state, template=PLAIN)
    client = client_for(replace(here, model=replace(here.model, weights="random")))
    assert (await respond(client, max_output_tokens=1))["weights"] == "random"
