"""What of an answer's tokens its text shows: special tokens, what stopped it, and when it may
stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.min_tokens import MinTokens
from edgeserve.gateway.text.tokenizer import read_tokenizer
from edgeserve.pipeline.generation import Order
from edgeserve.testing import FakeEngine
from tests.gateway.test_openai_completions import complete, refused

ClientFor = Callable[[AppState], httpx.AsyncClient]
EOS = 2


async def generated(client: httpx.AsyncClient, **parameters: Any) -> Any:
    body = {"inputs": "hello", "parameters": {"details": True, **parameters}}
    answer = await client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


# -- special tokens and what stopped it --------------------------------------------------------


@pytest.fixture
def told(
    llama_folder: Path, state: AppState, engine: FakeEngine, client_for: ClientFor
) -> httpx.AsyncClient:
    """A model that says `<s>`, a word and `</s>`, over and over."""
    tokenizer = read_tokenizer(llama_folder)
    model = replace(state.model, vocab=tokenizer.vocab_size)
    engine._reply = [1, *tokenizer.encode_bare("day"), EOS]
    return client_for(replace(state, tokenizer=tokenizer, model=model))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, " day"),
        ({"skip_special_tokens": True}, " day"),
        ({"skip_special_tokens": False}, "<s> day"),
        ({"include_stop_str_in_output": True}, " day"),
        ({"include_stop_str_in_output": True, "skip_special_tokens": False}, "<s> day</s>"),
        ({"ignore_eos": True}, " day day"),
        ({"ignore_eos": True, "skip_special_tokens": False}, "<s> day</s><s> day"),
        ({"stop": ["ay"]}, " d"),
        ({"stop": ["ay"], "include_stop_str_in_output": True}, " day"),
        ({"stop": ["day</s>"], "ignore_eos": True}, " "),
        (
            {"stop": ["day</s>"], "ignore_eos": True, "include_stop_str_in_output": True},
            " day</s>",
        ),
        ({"stop": ["day</s>"], "ignore_eos": True, "skip_special_tokens": False}, "<s> "),
        ({"stop": ["y</s><s>"], "ignore_eos": True, "skip_special_tokens": False}, "<s> da"),
        ({"stop": ["</s>"], "include_stop_str_in_output": True}, " day</s>"),
    ],
)
async def test_specials_and_stops_are_shown_to_those_who_ask(
    fields: dict[str, Any], text: str, told: httpx.AsyncClient, engine: FakeEngine
) -> None:
    assert not callable(engine._reply)
    tokens = 2 * len(engine._reply) - 1
    answer = await complete(told, max_tokens=tokens, **fields)
    assert answer["choices"][0]["text"] == text
    native = await generated(told, max_new_tokens=tokens, **fields)
    assert native["generated_text"] == text


# -- no end before there are enough ------------------------------------------------------------


def test_what_would_end_an_answer_is_masked_until_there_are_enough() -> None:
    guide = MinTokens(2, [2, 9, 299], 300)
    assert len(guide.mask()) == 38
    banned = [i for i in range(300) if not guide.mask()[i // 8] >> i % 8 & 1]
    assert banned == [2, 9, 299]
    guide.advance(5)
    assert guide.mask() != b""
    guide.advance(5)
    assert guide.mask() == b""
    guide.advance(2)
    assert guide.mask() == b""


def as_early_as_it_may(order: Order) -> list[int]:
    """A model that ends its answers, unless that is masked."""
    tokens: list[int] = []
    while len(tokens) < order.max_new_tokens:
        mask = b"" if order.guide is None else order.guide.mask()
        if EOS in order.stop_ids and (not mask or mask[EOS // 8] >> EOS % 8 & 1):
            return [*tokens, EOS]
        tokens.append(ord("ab"[len(tokens) % 2]))
        if order.guide is not None:
            order.guide.advance(tokens[-1])
    return tokens


@pytest.fixture
def eager(state: AppState, clock: ManualClock, client_for: ClientFor) -> httpx.AsyncClient:
    return client_for(replace(state, engine=FakeEngine(clock, as_early_as_it_may)))


@pytest.mark.parametrize(
    ("fields", "text", "reason"),
    [
        ({}, "", "stop"),
        ({"min_tokens": 0}, "", "stop"),
        ({"min_tokens": 1}, "a", "stop"),
        ({"min_tokens": 5}, "ababa", "stop"),
        ({"min_tokens": 8}, "abababab", "length"),
        ({"min_tokens": 5, "stop": ["b"]}, "ababa", "stop"),
        ({"min_tokens": 1, "stop": ["b"]}, "a", "stop"),
        ({"min_tokens": 3, "stop": ["b"], "ignore_eos": True}, "aba", "stop"),
    ],
)
async def test_an_answer_does_not_end_before_it_has_enough_tokens(
    fields: dict[str, Any], text: str, reason: str, eager: httpx.AsyncClient
) -> None:
    (choice,) = (await complete(eager, max_tokens=8, **fields))["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text, reason)


async def test_a_stop_token_counts_as_an_end_too(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(client, max_tokens=8, min_tokens=3, stop_token_ids=[70], ignore_eos=True)
    (order,) = engine.orders
    assert order.guide is not None
    banned = [i for i in range(300) if not order.guide.mask()[i // 8] >> i % 8 & 1]
    assert banned == [70]
    await complete(client, max_tokens=8, min_tokens=3, ignore_eos=True)
    assert engine.orders[1].guide is None, "nothing would end it, and it may be drafted"


async def test_each_of_several_answers_gets_enough(eager: httpx.AsyncClient) -> None:
    choices = (await complete(eager, max_tokens=8, min_tokens=4, n=3))["choices"]
    assert [choice["text"] for choice in choices] == ["abab"] * 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"min_tokens": 9}, "min_tokens is 9, but the answer gets at most 8 tokens"),
        ({"min_tokens": -1}, "min_tokens is -1, but must be a whole number from 0"),
        ({"min_tokens": 1, "guided_choice": ["a"]}, "is held to a grammar"),
    ],
)
async def test_more_than_there_can_be_is_refused(
    fields: dict[str, Any], said: str, client: httpx.AsyncClient
) -> None:
    assert said in (await refused(client, max_tokens=8, **fields))["message"]


# -- the prompt --------------------------------------------------------------------------------


async def test_a_prompt_can_be_cut_and_left_unframed(
    told: httpx.AsyncClient, engine: FakeEngine, llama_folder: Path
) -> None:
    tokenizer = read_tokenizer(llama_folder)
    bare = tokenizer.encode_bare("a day")
    for fields in (
        {},
        {"add_special_tokens": False},
        {"truncate_prompt_tokens": 2},
        {"truncate_prompt_tokens": 2, "add_special_tokens": False},
        {"truncate_prompt_tokens": 2, "prompt": bare},
    ):
        await complete(told, **{"prompt": "a day", **fields})
    prompts = [[*order.prompt] for order in engine.orders]
    assert prompts == [[1, *bare], bare, [1, bare[-1]], bare[-2:], bare[-2:]]


async def test_pages_are_shared_within_one_salt(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    for salt in (None, "a", "b", "a"):
        await complete(client, cache_salt=salt)
    plain, first, other, again = (order.tenant for order in engine.orders)
    assert plain == ""
    assert first == again
    assert len({plain, first, other}) == 3
    assert "cache_salt is" in (await refused(client, cache_salt=""))["message"]
