"""POST /generate_stream: the events, and what clients make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import StageUnavailable
from edgeserve.gateway.app_state import AppState
from edgeserve.testing import LOGPROB, FakeEngine

ClientFor = Callable[[AppState], httpx.AsyncClient]
Serving = Callable[[AppState], AbstractAsyncContextManager[str]]


async def stream(client: httpx.AsyncClient, inputs: str = "hello", **wishes: Any) -> Any:
    document = {"inputs": inputs, "parameters": wishes}
    answer = await client.post("/generate_stream", json=document)
    assert answer.status_code == 200, answer.text
    return events(answer.text)


def events(text: str) -> list[Any]:
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data:") for block in blocks)
    return [json.loads(block.removeprefix("data:")) for block in blocks]


async def test_there_is_one_event_a_token_and_the_last_carries_the_rest(
    client: httpx.AsyncClient,
) -> None:
    first, last = await stream(client, max_new_tokens=2, seed=4, temperature=1)
    assert first == {
        "index": 1,
        "token": {"id": 104, "text": "h", "logprob": LOGPROB, "special": False},
        "top_tokens": [],
        "generated_text": None,
        "details": None,
    }
    timing = last.pop("timing")
    assert last == {
        "index": 2,
        "token": {"id": 101, "text": "e", "logprob": LOGPROB, "special": False},
        "top_tokens": [],
        "generated_text": "he",
        "details": {
            "finish_reason": "length",
            "generated_tokens": 2,
            "seed": 4,
            "input_length": 5,
        },
    }
    assert len(timing["per_token"]) == 2


async def test_each_event_tells_the_most_likely_tokens_if_asked_for(
    client: httpx.AsyncClient,
) -> None:
    received = await stream(client, max_new_tokens=3, top_n_tokens=2)
    assert [[each["id"] for each in event["top_tokens"]] for event in received] == [
        [104, 105],
        [101, 102],
        [108, 109],
    ]


async def test_the_headers_keep_proxies_from_gathering_events(client: httpx.AsyncClient) -> None:
    answer = await client.post("/generate_stream", json={"inputs": "x"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert "content-length" not in answer.headers


async def test_a_stop_string_never_shows_in_the_stream(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold(after_tokens=20)
    events = await stream(client, stop=["lloh"], max_new_tokens=50)
    assert [event["token"]["text"] for event in events] == ["h", "e", "", "", "", ""]
    assert events[-1]["generated_text"] == "he"
    assert engine.cancelled == engine.orders


async def test_the_texts_of_the_events_are_the_text(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    reply = "a\N{LINE SEPARATOR}\x85\N{GRINNING FACE}\n\n\r".encode()
    client = client_for(replace(state, engine=FakeEngine(clock, reply)))
    received = await stream(client, max_new_tokens=len(reply) + 2)
    text = "".join(event["token"]["text"] for event in received)
    assert text == received[-1]["generated_text"] == reply.decode() + "a\N{REPLACEMENT CHARACTER}"


async def test_an_event_is_one_line_for_whoever_splits_lines(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    reply = "\N{LINE SEPARATOR}\x85".encode()
    client = client_for(replace(state, engine=FakeEngine(clock, reply)))
    document = {"inputs": "x", "parameters": {"max_new_tokens": 5}}
    answer = await client.post("/generate_stream", json=document)
    lines = [line for line in answer.text.splitlines() if line]
    assert len(lines) == 5


async def test_random_weights_are_said_to_be_random_at_the_end(
    state: AppState, client_for: ClientFor
) -> None:
    random = replace(state, model=replace(state.model, weights="random"))
    received = await stream(client_for(random), max_new_tokens=2)
    assert ["weights" in event for event in received] == [False, True]
    assert received[-1]["weights"] == "random"


async def test_the_full_text_is_in_the_last_event_alone(client: httpx.AsyncClient) -> None:
    received = await stream(client, "ab", max_new_tokens=2, return_full_text=True)
    assert received[0]["token"]["text"] == "a"
    assert received[-1]["generated_text"] == "abab"


async def test_a_failure_on_the_way_is_the_last_event(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("stage 0 is lost", stage=0, worker="here"), after_tokens=2)
    received = await stream(client)
    assert [event.get("index") for event in received] == [1, 2, None]
    assert received[-1] == {
        "error": "stage 0 is lost",
        "error_type": "stage_unavailable",
        "retryable": True,
        "stage": 0,
        "worker": "here",
    }


async def test_a_bad_request_is_a_status_and_no_stream(client: httpx.AsyncClient) -> None:
    answer = await client.post("/generate_stream", json={"inputs": "x", "stream": False})
    assert answer.status_code == 422
    assert answer.json()["error"].endswith("post to /generate")


@pytest.mark.slow
async def test_events_come_as_their_tokens_do(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold(after_tokens=1)
    async with serving(state) as url, httpx.AsyncClient() as client:
        document = {"inputs": "hello", "parameters": {"max_new_tokens": 3}}
        async with client.stream("POST", f"{url}/generate_stream", json=document) as answer:
            lines = answer.aiter_lines()
            assert json.loads((await anext(lines)).removeprefix("data:"))["index"] == 1
            assert engine.running == 1, "the first event came while the second token did not"
            engine.release()
            rest = [line async for line in lines if line]
            assert len(rest) == 2


@pytest.mark.slow
async def test_silence_is_broken_by_comments(
    state: AppState, engine: FakeEngine, serving: Serving
) -> None:
    engine.hold(after_tokens=0)
    impatient = replace(state, keep_alive_s=0.01)
    async with serving(impatient) as url, httpx.AsyncClient() as client:
        document = {"inputs": "hello", "parameters": {"max_new_tokens": 3}}
        async with client.stream("POST", f"{url}/generate_stream", json=document) as answer:
            lines = answer.aiter_lines()
            silence = [await anext(lines) for _ in range(4)]
            assert silence == [": keep-alive", "", ": keep-alive", ""]
            engine.release()
            rest = [line async for line in lines if line.startswith("data:")]
            assert len(rest) == 3, "no token was lost to a comment"


@pytest.mark.parametrize(("stream", "route"), [(True, "/generate_stream"), (False, "/generate")])
async def test_the_root_answers_as_the_body_asks(
    stream: bool, route: str, client: httpx.AsyncClient
) -> None:
    asked = {"inputs": "hello", "parameters": {"max_new_tokens": 3}, "stream": stream}
    there, here = [await client.post(path, json=asked) for path in (route, "/")]
    assert here.status_code == 200
    assert here.headers["content-type"] == there.headers["content-type"]
    assert "hel" in here.text


async def test_the_root_gives_an_answer_in_a_list(client: httpx.AsyncClient) -> None:
    asked = {"inputs": "hello", "parameters": {"max_new_tokens": 3, "details": True}}
    there, here = [(await client.post(path, json=asked)).json() for path in ("/generate", "/")]
    assert isinstance(here, list)
    assert [each["generated_text"] for each in here] == [there["generated_text"]] == ["hel"]
    assert here[0]["details"] == there["details"]


@pytest.mark.parametrize(
    "body", ["[]", '"x"', '{"stream": true}', '{"inputs": "x", "stream": "yes"}']
)
async def test_the_root_refuses_what_its_routes_refuse(
    body: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/", content=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "validation")


@pytest.mark.slow
async def test_hugging_faces_client_sends_and_understands_this(client: httpx.AsyncClient) -> None:
    hub = pytest.importorskip("huggingface_hub")
    # What InferenceClient.text_generation sends when it is given nothing but these four.
    given = {"max_new_tokens": 6, "temperature": 0.5, "stop": ["zz"], "top_n_tokens": 2}
    absent = """adapter_id best_of decoder_input_details frequency_penalty grammar
        repetition_penalty seed top_k top_p truncate typical_p""".split()
    flags = {"details": True, "do_sample": False, "return_full_text": False, "watermark": False}
    document = {"inputs": "hello", "parameters": {**dict.fromkeys(absent), **flags, **given}}
    whole = await client.post("/generate", json={**document, "stream": False})
    pieces = await client.post("/generate_stream", json={**document, "stream": True})
    output = hub.TextGenerationOutput.parse_obj_as_instance(whole.json())
    streamed = hub.TextGenerationStreamOutput.parse_obj_as_list(json.dumps(events(pieces.text)))
    assert output.generated_text == "helloh"
    assert output.details.finish_reason == "length"
    assert [token.text for token in output.details.tokens] == list("helloh")
    assert [each.token.text for each in streamed] == list("helloh")
    assert [len(each) for each in output.details.top_tokens] == [2] * 6
    assert [each.top_tokens[0].text for each in streamed] == list("helloh")
    assert streamed[-1].generated_text == "helloh"
    assert streamed[-1].details.generated_tokens == 6
