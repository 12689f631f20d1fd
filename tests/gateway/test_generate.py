"""POST /generate: what is ordered of the pipeline, and what is answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import StageUnavailable
from edgeserve.frames.sampling import Sampling
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.generate import intake
from edgeserve.gateway.text.tokenizer import open_tokenizer
from edgeserve.pipeline.generation import Ended, Status
from edgeserve.testing import LOGPROB, FakeEngine

ClientFor = Callable[[AppState], httpx.AsyncClient]


async def generate(client: httpx.AsyncClient, inputs: str = "hello", **wishes: Any) -> Any:
    answer = await client.post("/generate", json={"inputs": inputs, "parameters": wishes})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(client: httpx.AsyncClient, inputs: str = "hello", **wishes: Any) -> Any:
    answer = await client.post("/generate", json={"inputs": inputs, "parameters": wishes})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error_type"] == "validation"
    return answer.json()


# -- the answer --------------------------------------------------------------------------------


async def test_the_answer_is_text_and_a_receipt(client: httpx.AsyncClient) -> None:
    answer = await generate(client, max_new_tokens=7)
    assert answer.keys() == {"generated_text", "timing"}
    assert answer["generated_text"] == "hellohe"


async def test_details_come_when_asked_for(client: httpx.AsyncClient) -> None:
    answer = await generate(client, max_new_tokens=2, details=True)
    assert answer["details"] == {
        "finish_reason": "length",
        "generated_tokens": 2,
        "seed": None,
        "input_length": 5,
        "prefill": [],
        "tokens": [
            {"id": 104, "text": "h", "logprob": LOGPROB, "special": False},
            {"id": 101, "text": "e", "logprob": LOGPROB, "special": False},
        ],
    }


async def test_the_most_likely_tokens_are_told_if_asked_for(client: httpx.AsyncClient) -> None:
    details = (await generate(client, max_new_tokens=2, details=True, top_n_tokens=2))["details"]
    assert details["top_tokens"] == [
        [
            {"id": 104, "text": "h", "logprob": LOGPROB, "special": False},
            {"id": 105, "text": "i", "logprob": LOGPROB - 1, "special": False},
        ],
        [
            {"id": 101, "text": "e", "logprob": LOGPROB, "special": False},
            {"id": 102, "text": "f", "logprob": LOGPROB - 1, "special": False},
        ],
    ]


async def test_a_likely_token_has_the_text_that_it_would_have_alone(
    clock: ManualClock, state: AppState, client_for: ClientFor, llama_folder: Path
) -> None:
    tokenizer = open_tokenizer(llama_folder, 0)
    model = replace(state.model, vocab=tokenizer.vocab_size)
    engine = FakeEngine(clock, (2, 0xE2 + 3))  # the end of text, and then a third of a character
    client = client_for(replace(state, engine=engine, tokenizer=tokenizer, model=model))
    wishes: dict[str, Any] = {
        "max_new_tokens": 2,
        "ignore_eos": True,
        "details": True,
        "top_n_tokens": 1,
    }
    details = (await generate(client, **wishes))["details"]
    assert [(each["text"], each["special"]) for [each] in details["top_tokens"]] == [
        ("</s>", True),
        ("\N{REPLACEMENT CHARACTER}", False),
    ]


async def test_the_receipt_adds_up(client: httpx.AsyncClient) -> None:
    timing = (await generate(client, max_new_tokens=5))["timing"]
    state = timing["queue_ms"] + timing["prefill"]["total_ms"] + timing["decode"]["total_ms"]
    assert timing["total_ms"] == pytest.approx(state, rel=0.01)
    assert timing["total_ms"] == pytest.approx(50)
    assert len(timing["per_token"]) == 5
    assert timing["prefill"]["tokens"] == 5
    assert timing["decode"]["tokens"] == 4


async def test_random_weights_are_said_to_be_random(state: AppState, client_for: ClientFor) -> None:
    random = replace(state, model=replace(state.model, weights="random"))
    assert (await generate(client_for(random)))["weights"] == "random"
    assert "weights" not in await generate(client_for(state))


async def test_the_prompt_goes_before_the_text_if_asked_for(client: httpx.AsyncClient) -> None:
    answer = await generate(client, "ab", max_new_tokens=3, return_full_text=True)
    assert answer["generated_text"] == "ababa"


async def test_the_texts_of_the_tokens_are_the_text(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    reply = "h\N{EURO SIGN}y".encode()
    client = client_for(replace(state, engine=FakeEngine(clock, reply)))
    answer = await generate(client, max_new_tokens=4, details=True)
    texts = [token["text"] for token in answer["details"]["tokens"]]
    assert texts == ["h", "", "", "\N{EURO SIGN}"]
    assert answer["generated_text"] == "h\N{EURO SIGN}"


# -- how it ends -------------------------------------------------------------------------------


async def test_the_end_of_text_ends_the_answer_and_is_no_part_of_it(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    client = client_for(replace(state, engine=FakeEngine(clock, b"ab\x02cd")))
    answer = await generate(client, details=True)
    assert answer["generated_text"] == "ab"
    assert answer["details"]["finish_reason"] == "eos_token"
    assert [token["id"] for token in answer["details"]["tokens"]] == [97, 98, 2]


async def test_ignore_eos_goes_on(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    client = client_for(replace(state, engine=FakeEngine(clock, b"ab\x02cd")))
    answer = await generate(client, ignore_eos=True, max_new_tokens=5)
    assert answer["generated_text"] == "ab\x02cd"


async def test_the_models_ends_and_the_tokenizers_are_one_union(
    state: AppState, byte_level_folder: Path
) -> None:
    tokenizer = open_tokenizer(byte_level_folder, 0)
    for named, union in ((set(), {2}), ({2, 7}, {2, 7}), ({7, 299, 300, -1}, {2, 7, 299})):
        model = replace(state.model, eos_ids=frozenset(named))
        assert replace(state, tokenizer=tokenizer, model=model).eos_ids == union


async def test_a_stop_token_ends_the_answer(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    answer = await generate(client, stop_token_ids=[108], details=True)
    assert answer["generated_text"] == "he"
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert engine.orders[0].stop_ids == {2, 108}


async def test_a_stop_string_across_tokens_ends_the_answer_and_the_work(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.hold(after_tokens=20)
    answer = await generate(client, stop=["lloh", "zzz"], max_new_tokens=50, details=True)
    assert answer["generated_text"] == "he"
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert answer["details"]["generated_tokens"] == 6
    assert len(answer["timing"]["per_token"]) == 6
    assert engine.cancelled == engine.orders


async def test_the_beginning_of_a_stop_string_at_the_end_is_text(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await generate(client, stop=["lox"], max_new_tokens=5, details=True)
    assert answer["generated_text"] == "hello"
    texts = [token["text"] for token in answer["details"]["tokens"]]
    assert texts == ["h", "e", "", "l", "lo"]
    assert engine.cancelled == []


async def test_a_stop_string_that_only_the_last_bytes_complete_is_found(
    clock: ManualClock, state: AppState, client_for: ClientFor
) -> None:
    client = client_for(replace(state, engine=FakeEngine(clock, b"ab\xe2")))
    answer = await generate(
        client, stop=["b\N{REPLACEMENT CHARACTER}"], max_new_tokens=3, details=True
    )
    assert answer["generated_text"] == "a"
    assert answer["details"]["finish_reason"] == "stop_sequence"


async def test_a_pipeline_that_ends_without_a_reason_is_a_fault_of_ours(
    state: AppState, client_for: ClientFor
) -> None:
    class Forgetful(FakeEngine):
        def _make_token(self, running: Any) -> None:
            super()._make_token(running)
            if running.made == 2:
                self._end(running, Ended(reason="length"))

    client = client_for(replace(state, engine=Forgetful(state.clock)))
    answer = await client.post("/generate", json={"inputs": "x"})
    assert answer.status_code == 500
    assert "after 2 of its 63 tokens" in answer.json()["error"]


# -- what is ordered ---------------------------------------------------------------------------


async def test_an_order_holds_the_prompt_and_when_it_came(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await generate(client, "ab")
    order = engine.orders[0]
    assert order.prompt == (97, 98)
    assert order.received_s == 100.0
    assert order.stop_ids == {2}


@pytest.mark.parametrize(
    ("wishes", "sampling"),
    [
        ({}, Sampling()),
        ({"temperature": 0}, Sampling()),
        ({"temperature": 0, "do_sample": False, "seed": 3}, Sampling()),
        ({"top_k": 5, "top_p": 0.5, "min_p": 0.1}, Sampling()),
        ({"repetition_penalty": 1.5}, Sampling(repetition_penalty=1.5)),
        ({"frequency_penalty": -2}, Sampling(frequency_penalty=-2.0)),
        ({"top_n_tokens": 20}, Sampling(top_logprobs=20)),
        ({"presence_penalty": 1}, Sampling(presence_penalty=1.0)),
        ({"logit_bias": {"7": -3, "299": 1}}, Sampling(logit_bias=((7, -3.0), (299, 1.0)))),
        ({"do_sample": True, "seed": 3}, Sampling(temperature=1.0, seed=3)),
        ({"temperature": 0.5, "seed": 0}, Sampling(temperature=0.5)),
        (
            {"temperature": 0.5, "seed": 1, "frequency_penalty": 2, "top_n_tokens": 1},
            Sampling(temperature=0.5, seed=1, frequency_penalty=2.0, top_logprobs=1),
        ),
        ({"temperature": 0.5, "do_sample": False, "seed": 1}, Sampling(temperature=0.5, seed=1)),
        (
            {"temperature": 100, "top_k": 300, "top_p": 1, "min_p": 1, "seed": 2**64 - 1},
            Sampling(temperature=100, top_k=300, top_p=1, min_p=1, seed=2**64 - 1),
        ),
    ],
)
async def test_sampling_is_on_if_asked_for_or_if_there_is_a_temperature(
    wishes: dict[str, Any], sampling: Sampling, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await generate(client, details=True, **wishes)
    assert engine.orders[0].sampling == sampling
    assert answer["details"]["seed"] == (sampling.seed if sampling.temperature else None)


async def test_sampling_without_a_seed_draws_one_and_says_which(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    seeds = [
        (await generate(client, do_sample=True, details=True))["details"]["seed"] for _ in range(4)
    ]
    assert seeds == [order.sampling.seed for order in engine.orders]
    assert len(set(seeds)) == 4
    assert all(0 <= seed < 2**53 for seed in seeds)


async def test_sampling_at_temperature_0_is_a_contradiction(client: httpx.AsyncClient) -> None:
    error = (await refused(client, do_sample=True, temperature=0))["error"]
    assert "do_sample is true, but temperature 0" in error


@pytest.mark.parametrize(
    ("wishes", "named"),
    [
        ({"top_k": 301, "temperature": 1.0}, "parameters.top_k has 301"),
        ({"stop_token_ids": [299, 300]}, "parameters.stop_token_ids has 300"),
    ],
)
async def test_numbers_beyond_the_vocabulary_are_refused(
    wishes: dict[str, Any], named: str, client: httpx.AsyncClient
) -> None:
    error = await refused(client, **wishes)
    assert error["error"].startswith(named)
    assert error["vocab"] == 300


# -- the context -------------------------------------------------------------------------------


async def test_without_a_number_100_tokens_come_or_as_many_as_the_context_leaves(
    client: httpx.AsyncClient, client_for: ClientFor, engine: FakeEngine, state: AppState
) -> None:
    await generate(client, "x" * 60)
    await generate(client_for(replace(state, model=replace(state.model, context_tokens=500))))
    assert [order.max_new_tokens for order in engine.orders] == [4, 100]


async def test_an_answer_may_fill_the_context_to_the_last_token(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await generate(client, "x" * 4, max_new_tokens=60)
    assert engine.orders[0].max_new_tokens == 60


async def test_more_than_the_context_is_refused_with_the_arithmetic(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    error = await refused(client, "x" * 5, max_new_tokens=60)
    assert "5 prompt tokens + 60 new tokens are more than the 64" in error["error"]
    assert error["error"].endswith("set parameters.max_new_tokens to at most 59")
    assert (error["prompt_tokens"], error["max_new_tokens"], error["context_tokens"]) == (5, 60, 64)
    assert engine.orders == []


async def test_a_prompt_as_long_as_the_context_is_refused(client: httpx.AsyncClient) -> None:
    assert "shorten the prompt by at least 1 " in (await refused(client, "x" * 64))["error"]
    error = await refused(client, "x" * 70)
    assert "the prompt has 70 tokens, but this model reads at most 64" in error["error"]
    assert "shorten the prompt by at least 7 tokens" in error["error"]
    await generate(client, "x" * 63)


async def test_truncate_keeps_the_last_tokens(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await generate(client, "x" * 70 + "abc", truncate=3)
    assert bytes(engine.orders[0].prompt) == b"abc"


@pytest.mark.parametrize(("truncate", "kept"), [(1, [-1]), (3, [0, -2, -1]), (99, None)])
async def test_truncate_keeps_the_token_that_begins_every_prompt(
    truncate: int, kept: list[int] | None, state: AppState, llama_folder: Path
) -> None:
    tokenizer = open_tokenizer(llama_folder, 0)
    model = replace(state.model, vocab=tokenizer.vocab_size)
    taken = intake.Intake(replace(state, tokenizer=tokenizer, model=model))
    whole = tokenizer.encode("the dog")
    expected = whole if kept is None else [whole[i] for i in kept]
    assert list(await taken.encode("the dog", truncate)) == expected


async def test_a_prompt_beyond_reason_is_refused_before_it_is_tokenized(
    state: AppState, client_for: ClientFor
) -> None:
    class Unwilling:
        def encode(self, text: str) -> list[int]:
            raise AssertionError

    client = client_for(replace(state, tokenizer=Unwilling()))  # type: ignore[arg-type]  # a fake
    error = await refused(client, "x" * (64 * 64 + 1), truncate=3)
    assert (error["characters"], error["characters_max"]) == (4097, 4096)
    assert "64 for each of the 64 tokens" in error["error"]


async def test_a_token_that_the_model_has_no_row_for_never_reaches_a_stage(
    state: AppState, client_for: ClientFor, engine: FakeEngine
) -> None:
    small = client_for(replace(state, model=replace(state.model, vocab=110)))
    error = await refused(small, "a" + chr(110))
    assert (error["token_id"], error["vocab"]) == (110, 110)
    assert engine.orders == []
    await generate(small, "a" + chr(109))


async def test_a_prompt_without_tokens_is_refused(state: AppState, client_for: ClientFor) -> None:
    class Silent:
        prefix: tuple[int, ...] = ()

        def encode(self, text: str) -> list[int]:
            return []

    client = client_for(replace(state, tokenizer=Silent()))  # type: ignore[arg-type]  # a fake
    assert "no tokens" in (await refused(client, "\N{ZERO WIDTH SPACE}"))["error"]


async def test_a_long_prompt_is_tokenized_aside(state: AppState) -> None:
    """The loop goes on meanwhile: the tokenizer waits for what only the loop can do."""
    started, allowed = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    class Slow:
        prefix: tuple[int, ...] = ()

        def encode(self, text: str) -> list[int]:
            loop.call_soon_threadsafe(started.set)
            assert allowed.wait(5)
            return [7]

    roomy = replace(state.model, context_tokens=1000)
    slow: Any = Slow()
    taken = intake.Intake(replace(state, tokenizer=slow, model=roomy))
    encoding = asyncio.create_task(taken.encode("x" * (intake.THREAD_ABOVE_CHARACTERS + 1)))
    await asyncio.wait_for(started.wait(), 5)
    allowed.set()
    assert await encoding == (7,)


# -- what keeps it from being answered ----------------------------------------------------------


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_too_many_requests_are_told_when_to_come_back(
    route: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.overload(retry_after_s=7)
    answer = await client.post(route, json={"inputs": "x"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error_type"] == "overloaded"
    assert answer.json()["retry_after_s"] == 7


@pytest.mark.parametrize("route", ["/generate", "/generate_stream"])
async def test_a_lost_stage_is_named_before_an_answer_begins(
    route: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.lose_stage(1)
    answer = await client.post(route, json={"inputs": "x"})
    assert answer.status_code == 503
    assert answer.json() == {
        "error": "stage 1 on 127.0.0.1:50052 is lost",
        "error_type": "stage_unavailable",
        "retryable": True,
        "stage": 1,
        "worker": "127.0.0.1:50052",
    }


async def test_a_stage_lost_on_the_way_fails_the_answer(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("stage 0 is lost", stage=0, worker="here"), after_tokens=3)
    answer = await client.post("/generate", json={"inputs": "x"})
    assert answer.status_code == 503
    assert answer.json()["stage"] == 0
    assert engine.running == 0


async def test_an_answer_of_a_paced_pipeline_says_so(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    computed = await generate(client)
    engine.set_status(Status(phase="ready", simulation="paced simulation: rtx-3060"))
    paced = await generate(client)

    assert "simulation" not in computed
    assert paced["simulation"] == "paced simulation: rtx-3060"
