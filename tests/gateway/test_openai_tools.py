"""Tools on POST /v1/chat/completions: what a model says becomes calls, whole and in a stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.pipeline.generation import Order
from edgeserve.testing import FakeEngine
from tests.gateway.test_openai_chat import AtHome
from tests.gateway.tool_templates import BARE_TEMPLATE, TAGGED_TEMPLATE

ClientFor = Callable[[AppState], httpx.AsyncClient]
HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Of a place."}}
    for name in ("weather", "news")
]
ROME = '{"city": "Rome \u20ac"}'
OSLO = '{"city": "Oslo"}'
TAGGED = (
    f'<tool_call>\n{{"name": "weather", "arguments": {ROME}}}\n</tool_call>\n'
    f'<tool_call>\n{{"name": "news", "arguments": {OSLO}}}\n</tool_call>'
)
BARE = f'{{"name": "weather", "parameters": {ROME}}}; {{"name": "news", "parameters": {OSLO}}}'
BOTH = [("weather", ROME), ("news", OSLO)]


def saying(*texts: str) -> Callable[[Order], Sequence[int]]:
    """Each answer the next text, and its end."""
    left = list(texts)
    return lambda _: [*left.pop(0).encode(), 2]


@pytest.fixture
def model(state: AppState, client_for: ClientFor) -> Callable[..., httpx.AsyncClient]:
    def model(*texts: str, template: str = TAGGED_TEMPLATE) -> httpx.AsyncClient:
        engine = FakeEngine(ManualClock(100.0), saying(*texts))
        facts = replace(state.model, context_tokens=4000)
        template_here = AtHome(template, {"bos_token": "<s>"})
        return client_for(replace(state, engine=engine, model=facts, chat_template=template_here))

    return model


async def choices(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    body = {"messages": HELLO, "tools": TOOLS, **fields}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["choices"]
    return found


async def streamed(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    """What OpenAI's client makes of a stream's chunks, as messages with their finish reasons."""
    body = {"messages": HELLO, "tools": TOOLS, "stream": True, **fields}
    answer = await client.post("/v1/chat/completions", json=body)
    *chunks, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    messages: dict[int, Any] = {}
    for chunk in chunks:
        (choice,) = json.loads(chunk.removeprefix("data: "))["choices"]
        message = messages.setdefault(choice["index"], {"content": None, "tool_calls": []})
        add(message, choice["delta"])
        message["finish_reason"] = choice["finish_reason"]
    return [messages[i] for i in sorted(messages)]


def add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    assert delta.keys() <= {"role", "content", "tool_calls"}
    if "role" in delta:
        assert "role" not in message, "it is said once"
        message["role"] = delta["role"]
    if "content" in delta:
        message["content"] = (message["content"] or "") + delta["content"]
    for call in delta.get("tool_calls", ()):
        assert call.pop("index") == len(message["tool_calls"])
        message["tool_calls"].append(call)


def called(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message["tool_calls"]
    assert {call["type"] for call in calls} <= {"function"}
    assert all(call["id"].startswith("call_") for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


@pytest.mark.parametrize(
    ("said", "template"), [(TAGGED, TAGGED_TEMPLATE), (BARE, BARE_TEMPLATE)], ids=["tagged", "bare"]
)
async def test_calls_are_answers_without_text(
    said: str, template: str, model: Callable[..., httpx.AsyncClient]
) -> None:
    (choice,) = await choices(model(said, template=template))
    assert called(choice["message"]) == BOTH
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert choice["index"] == 0
    (message,) = await streamed(model(said, template=template))
    assert called(message) == BOTH
    assert (message["role"], message["content"]) == ("assistant", None)
    assert message["finish_reason"] == "tool_calls"


async def test_text_comes_beside_calls(model: Callable[..., httpx.AsyncClient]) -> None:
    said = f"I look.\n{TAGGED}\nWait\u2026"
    (choice,) = await choices(model(said))
    assert choice["message"]["content"] == "I look.\nWait\u2026"
    (message,) = await streamed(model(said))
    assert message["content"] == "I look.\nWait\u2026"
    assert called(message) == called(choice["message"]) == BOTH


@pytest.mark.parametrize("said", ["Just text. ", '<tool_call>{"name": "flee"', "", TAGGED[:-60]])
async def test_an_answer_without_a_call_is_as_ever(
    said: str, model: Callable[..., httpx.AsyncClient]
) -> None:
    (choice,) = await choices(model(said), tools=TOOLS[1:])
    assert choice["message"] == {"role": "assistant", "content": said}
    assert choice["finish_reason"] == "stop"
    (message,) = await streamed(model(said), tools=TOOLS[1:])
    assert message["content"] == (said or None)
    assert (message["tool_calls"], message["finish_reason"]) == ([], "stop")


async def test_each_of_several_answers_has_calls_of_its_own(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    for several in (
        [each["message"] for each in await choices(model(TAGGED, "no", TAGGED), n=3)],
        await streamed(model(TAGGED, "no", TAGGED), n=3),
    ):
        assert [called(m) if m.get("tool_calls") else m["content"] for m in several] == [
            BOTH, "no", BOTH,
        ]  # fmt: skip


async def test_one_call_at_a_time_leaves_the_next_one_text(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    (choice,) = await choices(model(TAGGED), parallel_tool_calls=False)
    assert called(choice["message"]) == BOTH[:1]
    assert choice["message"]["content"] == TAGGED[TAGGED.index("\n<tool_call>") :]


async def test_an_answer_that_is_cut_off_says_so(model: Callable[..., httpx.AsyncClient]) -> None:
    tokens = len(TAGGED.encode()) - 20
    (choice,) = await choices(model(TAGGED), max_tokens=tokens)
    assert called(choice["message"]) == BOTH[:1]
    assert choice["message"]["content"].startswith('\n<tool_call>\n{"name": "news"')
    assert choice["finish_reason"] == "length"
    (message,) = await streamed(model(TAGGED), max_tokens=tokens)
    assert message["finish_reason"] == "length"
    assert message["content"] == choice["message"]["content"]


@pytest.mark.parametrize("fields", [{"max_tokens": 30}, {"stop": "place"}], ids=["length", "stop"])
async def test_a_call_that_was_required_and_did_not_end_is_an_error_that_says_why(
    fields: dict[str, Any], model: Callable[..., httpx.AsyncClient]
) -> None:
    """And not a text that is half of a call."""
    rambled = '<tool_call>\n{"name": "weather", "arguments": {"city": "a place of a place of a'
    body = {"messages": HELLO, "tools": TOOLS, "tool_choice": "required", **fields}
    answer = await model(rambled).post("/v1/chat/completions", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    why = "its 30 tokens were used up" if "max_tokens" in fields else "what stops it came after"
    assert why in error["message"]
    assert "maxLength" in error["message"]
    assert error["param"] == "tools"
    stream = await model(rambled).post("/v1/chat/completions", json={**body, "stream": True})
    *chunks, last, _ = stream.text.split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == error["message"]
    assert not any("arguments" in chunk for chunk in chunks), "no half of a call was text"
    (choice,) = await choices(model(rambled), **fields)
    assert choice["message"]["content"], "a model that chose to call may be cut off"


async def test_logprobs_come_for_each_token_of_a_call(
    model: Callable[..., httpx.AsyncClient],
) -> None:
    (choice,) = await choices(model(TAGGED), logprobs=True)
    assert len(choice["logprobs"]["content"]) == len(TAGGED.encode())


async def test_no_tools_no_calls(state: AppState, model: Callable[..., httpx.AsyncClient]) -> None:
    (choice,) = await choices(model(TAGGED), tool_choice="none")
    assert choice["message"] == {"role": "assistant", "content": TAGGED}
    (choice,) = await choices(model(TAGGED), tools=None)
    assert choice["message"]["content"] == TAGGED


@pytest.mark.parametrize(
    ("fields", "shows", "guided"),
    [
        ({}, True, False),
        ({"tool_choice": "none"}, False, False),
        ({"tool_choice": "required"}, True, True),
        ({"tool_choice": {"type": "function", "function": {"name": "news"}}}, True, True),
    ],
)
async def test_the_prompt_has_the_tools_that_may_be_called(
    fields: dict[str, Any], shows: bool, guided: bool, state: AppState, client_for: ClientFor
) -> None:
    engine = FakeEngine(ManualClock(100.0), saying(TAGGED))
    facts = replace(state.model, context_tokens=4000)
    template = AtHome(TAGGED_TEMPLATE, {})
    here = replace(state, engine=engine, model=facts, chat_template=template)
    await choices(client_for(here), **fields)
    (order,) = engine.orders
    assert (b"Of a place." in bytes(order.prompt)) == shows
    assert (order.guide is not None) == guided


@pytest.mark.parametrize(
    "template", ["{{ messages }}", "{{ messages ~ ('[CALLS]' if tools else '') }}"]
)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "y"}], "tools": []},
    ],
    ids=["tools", "messages"],
)
async def test_a_model_that_knows_no_tools_refuses_them(
    fields: dict[str, Any], template: str, model: Callable[..., httpx.AsyncClient]
) -> None:
    body = {"messages": HELLO, "tools": TOOLS, **fields}
    answer = await model(template=template).post("/v1/chat/completions", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert "the chat template of fake has none" in error["message"]
    assert error["param"] == "tools"
    (choice,) = await choices(model("hi", template=template), tool_choice="none")
    assert choice["message"]["content"] == "hi"


async def test_a_grammar_that_cannot_be_is_refused(model: Callable[..., httpx.AsyncClient]) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "nothing"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    body = {"messages": HELLO, "tools": tools, "tool_choice": "required"}
    answer = await model("x").post("/v1/chat/completions", json=body)
    assert answer.status_code == 422, answer.text
    assert "the grammar cannot be followed" in answer.json()["error"]["message"]


def sent(**fields: Any) -> str:
    return json.dumps({"messages": HELLO, "tools": TOOLS, **fields})


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": fields}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "of_text"),
    [
        (sent(tools=[function(name="f", parameters="DEEP")]), False),
        (sent(tool_choice=function(name="DEEP")), False),
        (
            sent(
                messages=[
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "x", **function(name="f", arguments="DEEP")}],
                    }
                ]
            ),
            True,
        ),
    ],
    ids=["tools", "tool_choice", "arguments"],
)
async def test_what_is_too_deep_is_so_before_it_is_used(
    body: str, of_text: bool, model: Callable[..., httpx.AsyncClient]
) -> None:
    client, statuses = model(), set()
    for depth in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit()):
        deep = '{"a":' * depth + "1" + "}" * depth
        content = body.replace('"DEEP"', json.dumps(deep) if of_text else deep)
        answer = await client.post("/v1/chat/completions", content=content)
        statuses.add(answer.status_code)
    assert statuses <= {400, 422}
