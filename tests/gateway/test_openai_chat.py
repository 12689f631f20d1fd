"""POST /v1/chat/completions: from messages to a prompt, and from tokens to an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.errors import StageUnavailable
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.chat_render import answer as render
from edgeserve.gateway.text.chat_template import ChatTemplate
from edgeserve.testing import LOGPROB, FakeEngine
from tests.gateway.test_openai_completions import usage

ClientFor = Callable[[AppState], httpx.AsyncClient]
PATH = "/v1/chat/completions"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'developer' %}{{ raise_exception('no developers') }}"
    "{% endif %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:"
    "{% endif %}"
)
HELLO = [{"role": "user", "content": "hello"}]


class AtHome(ChatTemplate):
    """Rendered in this process: the same, without the time that another one takes to start."""

    def _ask(self, question: bytes) -> bytes:
        return json.dumps(render(json.loads(question))).encode() + b"\n"


@pytest.fixture
def talking(state: AppState) -> AppState:
    return replace(state, chat_template=AtHome(TEMPLATE, {}))


@pytest.fixture
def client(talking: AppState, client_for: ClientFor) -> httpx.AsyncClient:
    return client_for(talking)


async def chat(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post(PATH, json={"messages": HELLO, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    answer = await client.post(PATH, json={"messages": HELLO, "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    *chunks, last, end = answer.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "")
    return [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]


async def refused(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post(PATH, json={"messages": HELLO, **fields})
    assert answer.status_code == 422, answer.text
    return answer.json()["error"]


async def test_the_template_makes_the_prompt(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    said = [{"role": "system", "content": "be kind"}, *HELLO]
    await chat(client, messages=said)
    assert bytes(engine.orders[0].prompt) == b"s:be kind;u:hello;a:"
    assert engine.orders[0].max_new_tokens == 64 - 20


async def test_the_template_alone_frames_the_prompt(
    talking: AppState, client_for: ClientFor, engine: FakeEngine
) -> None:
    class Framing:
        """As a tokenizer that begins every prompt with a token of its own."""

        def __init__(self) -> None:
            self.bare = talking.tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.bare, name)

        def encode(self, text: str) -> list[int]:
            return [1, *self.bare.encode(text)]

    framing: Any = Framing()
    client = client_for(replace(talking, tokenizer=framing))
    await chat(client)
    await client.post("/v1/completions", json={"prompt": "hello"})
    assert [order.prompt[0] for order in engine.orders] == [ord("u"), 1]


async def test_without_a_number_up_to_1024_tokens_come(
    talking: AppState, client_for: ClientFor, engine: FakeEngine
) -> None:
    roomy = client_for(replace(talking, model=replace(talking.model, context_tokens=5000)))
    await chat(roomy)
    assert engine.orders[0].max_new_tokens == 1024


async def test_the_answer_is_in_openais_shape(client: httpx.AsyncClient) -> None:
    answer = await chat(client, max_tokens=3, n=2)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": i,
            "message": {"role": "assistant", "content": "u:h"},
            "logprobs": None,
            "finish_reason": "length",
        }
        for i in range(2)
    ]
    assert answer["usage"] == usage(10, 6)


async def test_the_first_chunk_of_each_answer_says_whose_it_is(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, max_tokens=3, n=2)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for i in range(2):
        choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == i]
        assert [each["delta"] for each in choices] == [
            {"role": "assistant", "content": "u"},
            {"content": ":"},
            {"content": "h"},
        ]
        assert [each["finish_reason"] for each in choices] == [None, None, "length"]


async def test_logprobs_come_with_the_bytes_of_each_token(client: httpx.AsyncClient) -> None:
    said = [{"role": "user", "content": "\N{EURO SIGN}"}]
    asked = {"messages": said, "max_tokens": 4, "logprobs": True}
    whole = (await chat(client, **asked))["choices"][0]["logprobs"]["content"]
    assert whole[0] == {"token": "u", "logprob": LOGPROB, "bytes": [117], "top_logprobs": []}
    assert [entry["bytes"] for entry in whole] == [[117], [58], [0xE2], [0x82]]
    chunks = await stream(client, **asked)
    assert [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks] == [[e] for e in whole]


async def test_the_likeliest_tokens_are_told_in_openais_shape(client: httpx.AsyncClient) -> None:
    asked = {"max_tokens": 2, "logprobs": True, "top_logprobs": 2}
    whole = (await chat(client, **asked))["choices"][0]["logprobs"]["content"]
    u, v = [
        {"token": token, "logprob": LOGPROB - i, "bytes": [117 + i]} for i, token in enumerate("uv")
    ]
    assert whole[0] == {**u, "top_logprobs": [u, v]}
    chunks = await stream(client, **asked)
    assert [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks] == [[e] for e in whole]


async def test_messages_that_the_template_refuses_are_refused_with_its_words(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    error = await refused(client, messages=[{"role": "developer", "content": "x"}])
    assert error["message"] == (
        "the model's chat template refuses these messages: TemplateError: no developers"
    )
    assert error["param"] == "messages"
    assert engine.orders == []


async def test_a_model_without_a_template_says_what_to_do(
    state: AppState, client_for: ClientFor
) -> None:
    error = await refused(client_for(state))
    assert (
        "fake has no chat template: put a chat_template.jinja into its folder" in error["message"]
    )
    assert "post a prompt to /v1/completions" in error["message"]


async def test_refusals_speak_of_the_fields_of_this_route(client: httpx.AsyncClient) -> None:
    said = await refused(client, max_completion_tokens=60)
    assert said["message"].endswith("set max_completion_tokens to at most 54")
    long = [{"role": "user", "content": "x" * 5000}]
    assert (await refused(client, messages=long))["message"].startswith("messages has 5005 char")


@pytest.mark.parametrize("streams", [False, True])
async def test_a_lost_stage_is_a_status_until_the_answer_begins(
    streams: bool, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.lose_stage(1)
    answer = await client.post(PATH, json={"messages": HELLO, "stream": streams})
    assert answer.status_code == 503
    assert answer.json()["error"]["stage"] == 1
    engine.release()
    engine.fail(StageUnavailable("stage 1 is lost", stage=1), after_tokens=0)
    answer = await client.post(PATH, json={"messages": HELLO, "stream": streams, "n": 2})
    assert answer.status_code == 503, "nothing was sent yet: the others wait for the first token"
