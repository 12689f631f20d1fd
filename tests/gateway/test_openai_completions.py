"""POST /v1/completions and GET /v1/models: what is ordered, and what is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

import edgeserve
from edgeserve.clock import ManualClock
from edgeserve.errors import StageUnavailable
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.middleware import BODY_BYTES_MAX
from edgeserve.gateway.edge.openai_error import OPENAI_PATHS
from edgeserve.pipeline.generation import Generation, Order, Status, Token
from edgeserve.testing import LOGPROB, FakeEngine
from tests.gateway.conftest import key_ring
from tests.gateway.test_disconnect import call

ClientFor = Callable[[AppState], httpx.AsyncClient]
PATH = "/v1/completions"


class Narrow(FakeEngine):
    """Has room for two."""

    async def submit(self, order: Order) -> Generation:
        if len(self.orders) == 2:
            self.overload(retry_after_s=3)
        return await super().submit(order)


async def complete(client: httpx.AsyncClient, **fields: Any) -> Any:
    answer = await client.post(PATH, json={"prompt": "hello", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[Any]:
    """The events before `[DONE]`, which has to be there."""
    answer = await client.post(PATH, json={"prompt": "hello", "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    *chunks, last = events(answer.text)
    assert last == "[DONE]"
    return [json.loads(chunk) for chunk in chunks]


def events(text: str) -> list[str]:
    assert text.endswith("\n\n")
    blocks = text.removesuffix("\n\n").split("\n\n")
    assert all(block.startswith("data: ") for block in blocks)
    return [block.removeprefix("data: ") for block in blocks]


async def refused(client: httpx.AsyncClient, status: int = 422, **fields: Any) -> Any:
    answer = await client.post(PATH, json={"prompt": "hello", **fields})
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return answer.json()["error"]


def usage(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    """With the details that OpenAI has."""
    nothing = ("reasoning", "audio", "accepted_prediction", "rejected_prediction")
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {f"{name}_tokens": 0 for name in nothing},
    }


# -- the answer --------------------------------------------------------------------------------


async def test_the_answer_is_in_openais_shape(client: httpx.AsyncClient) -> None:
    answer = await complete(client, max_tokens=7, model="fake", user="me")
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "object": "text_completion",
        "model": "fake",
        "system_fingerprint": f"edgeserve-{edgeserve.__version__}",
        "choices": [{"index": 0, "text": "hellohe", "logprobs": None, "finish_reason": "length"}],
        "usage": usage(5, 7),
    }


async def test_the_receipt_comes_when_asked_for(client: httpx.AsyncClient) -> None:
    answer = await complete(client, max_tokens=7, timing=True)
    assert len(answer["timing"]["per_token"]) == 7
    assert answer["timing"]["total_ms"] == pytest.approx(70)


async def test_what_makes_an_answer_mean_less_is_said(
    state: AppState, client_for: ClientFor, engine: FakeEngine
) -> None:
    engine.set_status(Status(phase="ready", simulation="paced simulation: x"))
    client = client_for(replace(state, model=replace(state.model, weights="random")))
    for document in (await complete(client), *await stream(client)):
        assert document["weights"] == "random"
        assert document["simulation"] == "paced simulation: x"


async def test_several_prompts_get_several_answers_each(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await complete(client, prompt=["ab", "xyz"], n=2, max_tokens=3, seed=8)
    texts = [(each["index"], each["text"]) for each in answer["choices"]]
    assert texts == [(0, "aba"), (1, "aba"), (2, "xyz"), (3, "xyz")]
    assert answer["usage"] == usage(5, 12)
    asked = sorted((bytes(order.prompt), order.sampling.seed) for order in engine.orders)
    assert asked == [(b"ab", 8), (b"ab", 9), (b"xyz", 8), (b"xyz", 9)]


async def test_tokens_are_a_prompt_too(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await complete(client, prompt=[104, 105], max_tokens=2, echo=True)
    assert engine.orders[0].prompt == (104, 105)
    assert answer["choices"][0]["text"] == "hihi"


async def test_an_echo_goes_before_the_text_once(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt=["ab", "xy"], echo=True, max_tokens=2)
    assert [each["text"] for each in answer["choices"]] == ["abab", "xyxy"]
    chunks = await stream(client, prompt="ab", echo=True, max_tokens=2)
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["aba", "b"]


async def test_a_prompt_that_does_not_fit_is_not_decoded_to_be_echoed(
    client: httpx.AsyncClient, state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of its tokens would hold up everybody's for a second."""
    decoded: list[Any] = []
    monkeypatch.setattr(state.tokenizer, "decode", decoded.append)
    error = await refused(client, prompt=[104] * 65, max_tokens=1, echo=True)
    assert "the prompt has 65 tokens" in error["message"]
    assert decoded == []


async def test_16_tokens_come_unless_told_otherwise(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(client)
    await complete(client, prompt="x" * 60)
    assert [order.max_new_tokens for order in engine.orders] == [16, 4]


async def test_wishes_reach_the_pipeline(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    await complete(client, temperature=0.5, top_p=0.9, top_k=4, seed=3, ignore_eos=True)
    order = engine.orders[0]
    assert (order.sampling.temperature, order.sampling.top_p) == (0.5, 0.9)
    assert (order.sampling.top_k, order.sampling.seed) == (4, 3)
    assert order.stop_ids == frozenset()


async def test_what_stops_an_answer_is_no_part_of_it(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    client = client_for(replace(state, engine=FakeEngine(clock, b"ab\x02cd")))
    for fields, text in (({}, "ab"), ({"stop": "b"}, "a")):
        choice = (await complete(client, **fields))["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (text, "stop")


async def test_a_stop_string_ends_the_work(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.hold(after_tokens=6)
    answer = await complete(client, stop=["lloh"], n=2)
    assert [each["text"] for each in answer["choices"]] == ["he", "he"]
    assert len(engine.cancelled) == 2


async def test_logprobs_are_of_the_tokens_that_are_text(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    client = client_for(replace(state, engine=FakeEngine(clock, "h\N{EURO SIGN}\x02".encode())))
    whole = (await complete(client, logprobs=0))["choices"][0]["logprobs"]
    assert whole == {
        "tokens": ["h", *["\N{REPLACEMENT CHARACTER}"] * 3],
        "token_logprobs": [LOGPROB] * 4,
        "top_logprobs": None,
        "text_offset": [0, 1, 1, 1],
    }
    parts_of_it = [chunk["choices"][0]["logprobs"] for chunk in await stream(client, logprobs=0)]
    for key in ("tokens", "token_logprobs", "text_offset"):
        assert [each for part in parts_of_it for each in part[key]] == whole[key]


async def test_the_likeliest_tokens_are_told_and_the_chosen_one_among_them(
    state: AppState, client_for: ClientFor
) -> None:
    class Unlikely(FakeEngine):
        def _begin(self, order: Order) -> Any:
            running = super()._begin(order)
            top = ((120, -0.1), (0x82, -0.2), (0x83, -0.4))
            running.generation.deliver(Token(token=104, logprob=-3.0, top=top))
            return running

    client = client_for(replace(state, engine=Unlikely(state.clock)))
    broken = "\N{REPLACEMENT CHARACTER}"
    whole = (await complete(client, logprobs=3, max_tokens=2))["choices"][0]["logprobs"]
    assert list(whole["top_logprobs"][0].items()) == [("x", -0.1), (broken, -0.2), ("h", -3.0)]
    #      of the two that are parts of characters, the likelier one
    chunks = await stream(client, logprobs=3, max_tokens=2)
    told = [chunk["choices"][0]["logprobs"]["top_logprobs"] for chunk in chunks]
    assert told == [[each] for each in whole["top_logprobs"]]


async def test_a_token_that_is_not_in_the_vocabulary_cannot_be_biased(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await client.post(PATH, json={"prompt": "hello", "logit_bias": {"1": 2, "300": 1}})
    assert answer.status_code == 422
    said = answer.json()["error"]["message"]
    assert said == "logit_bias has 300; this model's vocabulary allows at most 299"
    await complete(client, logit_bias={"007": 2, "299": -100}, presence_penalty=-1.5)
    sampling = engine.orders[0].sampling
    assert (sampling.logit_bias, sampling.presence_penalty) == (((7, 2.0), (299, -100.0)), -1.5)


async def test_a_token_that_cannot_be_has_a_number_all_the_same(
    state: AppState, client_for: ClientFor
) -> None:
    class Impossible(FakeEngine):
        def _begin(self, order: Order) -> Any:
            running = super()._begin(order)
            running.generation.deliver(Token(token=104, logprob=float("-inf")))
            return running

    client = client_for(replace(state, engine=Impossible(state.clock)))
    answer = await complete(client, logprobs=0, max_tokens=2)
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [-9999.0, LOGPROB]


# -- a stream ----------------------------------------------------------------------------------


async def test_a_stream_has_a_chunk_a_token_and_says_when_it_is_done(
    client: httpx.AsyncClient,
) -> None:
    first, last = await stream(client, max_tokens=2)
    assert first["choices"] == [{"index": 0, "text": "h", "logprobs": None, "finish_reason": None}]
    assert last["choices"][0] == {**first["choices"][0], "text": "e", "finish_reason": "length"}
    assert first["object"] == "text_completion"
    assert first["id"] == last["id"]
    assert "usage" not in first


async def test_usage_and_receipt_are_a_chunk_of_their_own_at_the_end(
    client: httpx.AsyncClient,
) -> None:
    options = {"include_usage": True}
    *chunks, last = await stream(client, max_tokens=2, stream_options=options, timing=True)
    assert [chunk["usage"] for chunk in chunks] == [None, None]
    assert last["choices"] == []
    assert last["usage"] == usage(5, 2)
    assert len(last["timing"]["per_token"]) == 2
    *chunks, last = await stream(client, max_tokens=2, timing=True)
    assert "usage" not in last
    assert len(last["timing"]["per_token"]) == len(chunks) == 2


async def test_usage_says_what_was_kept_of_each_prompt_once(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.cached_tokens = 3
    answer = await complete(client, prompt=["hello", "hi"], n=2, max_tokens=2)
    assert answer["usage"] == usage(7, 8, cached=6)


async def test_continuous_usage_is_that_of_each_answer_so_far(client: httpx.AsyncClient) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = await stream(client, prompt="abc", n=2, max_tokens=3, stream_options=options)
    for index in (0, 1):
        told = [each["usage"] for each in chunks if each["choices"][0]["index"] == index]
        assert told == [usage(3, 1), usage(3, 2), usage(3, 3)]
    assert (last["choices"], last["usage"]) == ([], usage(3, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"continuous_usage_stats": True},
        {"continuous_usage_stats": True, "include_usage": False},
        {"include_usage": None, "include_obfuscation": False},
    ],
)
async def test_without_usage_there_is_none_in_between(
    options: dict[str, Any], client: httpx.AsyncClient
) -> None:
    chunks = await stream(client, max_tokens=2, stream_options=options)
    assert [("usage" in chunk, len(chunk["choices"])) for chunk in chunks] == [(False, 1)] * 2


async def test_answers_side_by_side_are_told_by_their_index(client: httpx.AsyncClient) -> None:
    chunks = await stream(client, prompt=["abc", "xyz"], n=2, max_tokens=4)
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    texts = ["".join(c["text"] for c in choices if c["index"] == i) for i in range(4)]
    assert texts == ["abca", "abca", "xyzx", "xyzx"]
    ends = [c["index"] for c in choices if c["finish_reason"] == "length"]
    assert sorted(ends) == [0, 1, 2, 3]
    order = [c["index"] for c in choices]
    assert order != sorted(order), "they come as they are made, not one answer after another"


async def test_a_stage_lost_on_the_way_is_the_last_event(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("stage 0 is lost", stage=0, worker="here"), after_tokens=2)
    for fields in ({}, {"n": 2}):
        answer = await client.post(PATH, json={"prompt": "hello", "stream": True, **fields})
        *chunks, last = events(answer.text)
        assert len(chunks) >= 2
        assert json.loads(last) == {
            "error": {
                "message": "stage 0 is lost",
                "type": "server_error",
                "param": None,
                "code": "stage_unavailable",
                "retryable": True,
                "stage": 0,
                "worker": "here",
            }
        }
    assert engine.running == 0


# -- admission ---------------------------------------------------------------------------------


async def test_the_first_of_several_answers_goes_ahead_so_that_the_others_find_its_pages(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold(after_tokens=0)
    asked = asyncio.create_task(complete(client, prompt=["ab", "cd"], n=3, max_tokens=2))
    await engine.wait_for_orders(2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert [bytes(order.prompt) for order in engine.orders] == [b"ab", b"cd"]
    engine.release()
    assert [each["text"] for each in (await asked)["choices"]] == ["ab"] * 3 + ["cd"] * 3
    assert len(engine.orders) == 6


@pytest.mark.parametrize("streams", [False, True])
async def test_if_one_is_refused_all_are_and_the_others_are_freed(
    streams: bool, state: AppState, client_for: ClientFor
) -> None:
    engine = Narrow(state.clock)
    engine.hold(after_tokens=1)
    client = client_for(replace(state, engine=engine))
    body = {"prompt": "hello", "n": 3, "stream": streams}
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
    assert error["retry_after_s"] == 3
    assert len(engine.orders) == 2
    assert engine.cancelled[::-1] == engine.orders


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 3}, {"n": 3, "stream": True}])
async def test_whoever_leaves_frees_all_answers(
    fields: dict[str, Any], state: AppState, engine: FakeEngine
) -> None:
    engine.hold(after_tokens=1)
    gone = asyncio.Event()
    before = asyncio.all_tasks()
    body = json.dumps({"prompt": "hello", **fields}).encode()
    asking = asyncio.create_task(call(state, PATH, gone, body))
    await engine.wait_for_orders(fields.get("n", 1))
    assert engine.cancelled == []
    gone.set()
    await asking
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert engine.cancelled == engine.orders
    assert engine.running == 0


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fake", "maker/fake", "/models/fake/", None])
async def test_the_model_may_be_named_by_its_path(
    name: str | None, client: httpx.AsyncClient
) -> None:
    assert (await complete(client, model=name))["model"] == "fake"


@pytest.mark.parametrize("name", ["gpt-4", "", "fake/other", "fak"])
async def test_another_model_is_not_found(name: str, client: httpx.AsyncClient) -> None:
    assert await refused(client, status=404, model=name) == {
        "message": "the model is fake, and no other is served; ask for fake, or leave model out",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_refusals_speak_of_the_fields_of_this_route(client: httpx.AsyncClient) -> None:
    error = await refused(client, max_tokens=60)
    assert error["message"].endswith("set max_tokens to at most 59")
    assert (error["code"], error["max_new_tokens"]) == ("validation", 60)
    assert (await refused(client, prompt="x" * 5000))["message"].startswith("prompt has 5000 char")
    assert (await refused(client, prompt=[5, 300]))["message"].startswith("prompt holds '<300>', ")
    assert (await refused(client, prompt="x" * 64))["message"].endswith("by at least 1 tokens")
    assert (await refused(client, top_k=301))["message"].startswith("top_k has 301; ")


async def test_errors_have_openais_shape_on_its_routes_and_ours_elsewhere(
    state: AppState, client_for: ClientFor
) -> None:
    locked = client_for(replace(state, keys=key_ring(state.clock, {"me": "open sesame"})))
    for path in OPENAI_PATHS:
        answer = await locked.post(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "unauthorized"
    for path in ("/generate", "/v1/cluster"):
        assert (await locked.post(path)).json()["error_type"] == "unauthorized"


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/completions", b"", (405, "method_not_allowed")),
        ("POST", "/v1/models", b"", (405, "method_not_allowed")),
        ("POST", "/v1/embeddings", b"{}", (404, "not_found")),
        ("POST", "/v1/completions", b"{", (400, "bad_request")),
        ("POST", "/v1/chat/completions", b"x" * (BODY_BYTES_MAX + 1), (413, "payload_too_large")),
    ],
)
async def test_the_border_speaks_openais_way_too(
    method: str, path: str, body: bytes, expected: tuple[int, str], client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path, content=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == expected
    assert error["type"] == "invalid_request_error"


async def test_the_routes_in_openais_shape_are_those_that_there_are(state: AppState) -> None:
    tagged = {
        path
        for path, methods in create_app(state).openapi()["paths"].items()
        for method in methods.values()
        if method["tags"] == ["openai"]
    }
    assert tagged == OPENAI_PATHS


async def test_the_one_model_is_listed(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v1/models")).json()
    (model,) = answer["data"]
    assert answer["object"] == "list"
    assert model.pop("created") > 1_700_000_000
    assert model == {
        "id": "fake", "object": "model", "owned_by": "edgeserve", "max_model_len": 64,
        "capabilities": ["completion"],
    }  # fmt: skip
