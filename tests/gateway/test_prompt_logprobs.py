"""How likely the tokens of a prompt were: what is ordered, and how each API tells it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeserve.errors import StageUnavailable
from edgeserve.gateway.api.openai.request import PROMPTS_MAX
from edgeserve.gateway.api.prompt_logprobs import text_offsets
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.tokenizer import read_tokenizer
from edgeserve.pipeline.generation import Order, Scoring, Token
from edgeserve.testing import LOGPROB, FakeEngine
from tests.gateway.test_openai_chat import AtHome
from tests.gateway.test_openai_completions import ClientFor, complete, refused, stream

END = 2
"""The model's end of text."""


class Told(FakeEngine):
    """Answers with `END`, and has these tokens for a prompt."""

    def __init__(self, state: AppState, prompt: Sequence[Token]) -> None:
        super().__init__(state.clock, reply=[END])
        self._prompt = tuple(prompt)

    def scored(self, order: Order) -> tuple[Token, ...]:
        return self._prompt if order.scoring else ()


# -- OpenAI's completions ------------------------------------------------------------------------


async def test_an_echo_with_logprobs_tells_the_prompt_and_then_the_answer(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await complete(client, prompt="abc", echo=True, logprobs=2, max_tokens=2)

    [choice] = answer["choices"]
    assert choice["text"] == "abcab"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", "c", "a", "b"],
        "token_logprobs": [None, LOGPROB, LOGPROB, LOGPROB, LOGPROB],
        "top_logprobs": [
            None,
            {"b": LOGPROB, "c": LOGPROB - 1},
            {"c": LOGPROB, "d": LOGPROB - 1},
            {"a": LOGPROB, "b": LOGPROB - 1},
            {"b": LOGPROB, "c": LOGPROB - 1},
        ],
        "text_offset": [0, 1, 2, 3, 4],
    }
    assert engine.orders[0].scoring == Scoring(top_logprobs=2)


async def test_logprobs_of_0_tell_no_other_tokens(client: httpx.AsyncClient) -> None:
    answer = await complete(client, prompt="abc", echo=True, logprobs=0, max_tokens=1)
    told = answer["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None, LOGPROB, LOGPROB, LOGPROB]
    assert told["top_logprobs"] is None


@pytest.mark.parametrize("fields", [{"echo": True}, {"logprobs": 1}, {}], ids=str)
async def test_a_prompt_is_scored_only_if_both_are_asked_for(
    fields: dict[str, Any], client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(client, **fields)
    assert engine.orders[0].scoring is None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_no_new_token_gives_the_prompt_alone(
    name: str, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await complete(client, prompt="ab", echo=True, logprobs=1, timing=True, **{name: 0})

    assert engine.orders[0].max_new_tokens == 0
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
    assert choice["logprobs"]["tokens"] == ["a", "b"]
    assert choice["logprobs"]["token_logprobs"] == [None, LOGPROB]
    assert answer["usage"]["completion_tokens"] == 0
    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["timing"]["per_token"] == []
    assert answer["timing"]["prefill"]["compute_ms"] > 0
    assert engine.running == 0
    assert engine.cancelled == []


async def test_no_new_token_and_no_echo_is_an_empty_text(client: httpx.AsyncClient) -> None:
    answer = await complete(client, max_tokens=0, logprobs=1)
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")
    assert choice["logprobs"]["tokens"] == []


async def test_a_stream_of_no_token_is_one_chunk(client: httpx.AsyncClient) -> None:
    chunks = await stream(
        client, prompt=["ab", "xyz"], echo=True, logprobs=0, max_tokens=0,
        stream_options={"include_usage": True},
    )  # fmt: skip

    *texts, usage = chunks
    choices = sorted((each["choices"][0] for each in texts), key=lambda each: each["index"])
    assert [each["text"] for each in choices] == ["ab", "xyz"]
    assert [each["finish_reason"] for each in choices] == ["length", "length"]
    assert [each["logprobs"]["tokens"] for each in choices] == [["a", "b"], ["x", "y", "z"]]
    assert usage["usage"]["completion_tokens"] == 0


async def test_the_first_chunk_of_a_stream_tells_the_prompt(client: httpx.AsyncClient) -> None:
    first, second = await stream(client, prompt="ab", echo=True, logprobs=1, max_tokens=2)

    assert first["choices"][0]["text"] == "aba"
    assert first["choices"][0]["logprobs"]["tokens"] == ["a", "b", "a"]
    assert first["choices"][0]["logprobs"]["text_offset"] == [0, 1, 2]
    assert second["choices"][0]["text"] == "b"
    assert second["choices"][0]["logprobs"]["tokens"] == ["b"]
    assert second["choices"][0]["logprobs"]["text_offset"] == [3]


async def test_the_token_that_ends_the_answer_is_told_behind_an_echo(
    state: AppState, client_for: ClientFor
) -> None:
    """Who asks for one new token leaves out the last one told, whatever it is."""
    client = client_for(replace(state, engine=FakeEngine(state.clock, reply=[END])))
    answer = await complete(client, prompt="ab", echo=True, logprobs=1, max_tokens=1)
    [choice] = answer["choices"]
    assert choice["text"] == "ab"
    told = choice["logprobs"]
    assert {len(told[key]) for key in told} == {3}
    assert answer["usage"]["completion_tokens"] == 1
    without = await complete(client, prompt="ab", logprobs=1, max_tokens=1)
    assert without["choices"][0]["logprobs"]["tokens"] == []


async def test_several_answers_to_a_prompt_have_it_scored_once(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    fields: dict[str, Any] = {"prompt": ["ab", "xyz"], "n": 2, "echo": True, "logprobs": 1}
    for max_tokens in (0, 2):
        answer = await complete(client, **fields, max_tokens=max_tokens)
        told = [each["logprobs"]["token_logprobs"] for each in answer["choices"]]
        new = [LOGPROB] * max_tokens
        assert told == [[None, LOGPROB, *new]] * 2 + [[None, LOGPROB, LOGPROB, *new]] * 2
    scored = [order.prompt for order in engine.orders if order.scoring]
    assert scored == [tuple(b"ab"), tuple(b"xyz")] * 2
    assert len(engine.orders) == 8


async def test_as_many_prompts_as_may_wait_come_in_one_request(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    prompts = [[97 + i % 20, 98, 99] for i in range(PROMPTS_MAX)]
    answer = await complete(client, prompt=prompts, echo=True, logprobs=1, max_tokens=1)
    assert [each["index"] for each in answer["choices"]] == list(range(PROMPTS_MAX))
    for prompt, choice in zip(prompts, answer["choices"], strict=True):
        assert choice["text"] == bytes([*prompt, prompt[0]]).decode()
    assert len(engine.orders) == PROMPTS_MAX
    error = await refused(client, prompt=[*prompts, [97]])
    assert f"a list of 1 to {PROMPTS_MAX} of either" in error["message"]


async def test_a_prompt_may_fill_the_context_if_nothing_is_to_follow(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await complete(client, prompt=[97] * 64, max_tokens=0)
    assert len(engine.orders) == 1
    error = await refused(client, prompt=[97] * 65, max_tokens=0)
    assert "shorten the prompt by at least 1 tokens" in error["message"]
    error = await refused(client, prompt=[97] * 64, max_tokens=1)
    assert "shorten the prompt by at least 1 tokens" in error["message"]


async def test_a_token_that_could_not_be_and_texts_that_are_alike_are_told_as_they_are(
    state: AppState, client_for: ClientFor
) -> None:
    """Both bytes are halves of characters, and have one text: the largest number here is that of
    the likeliest token, or a client would take the prompt's own for it.
    """
    prompt = [Token(0x80, -5.0, ((0x81, -0.25),), 2), Token(98, -math.inf, ((99, -0.5),), 300)]
    client = client_for(replace(state, engine=Told(state, prompt)))

    answer = await complete(
        client, prompt=[97, 0x80, 98], echo=True, logprobs=1, max_tokens=0
    )  # fmt: skip

    told = answer["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None, -5.0, -9999.0]
    assert told["top_logprobs"] == [None, {"\ufffd": -0.25}, {"c": -0.5, "b": -9999.0}]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_a_prompt_whose_text_is_empty_is_told_too(
    max_tokens: int, state: AppState, client_for: ClientFor, llama_folder: Path
) -> None:
    """As that of the space that a tokenizer puts before a text."""
    tokenizer, model = read_tokenizer(llama_folder), replace(state.model, vocab=1000)
    space = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b" ")
    assert tokenizer.decode([space]) == ""
    client = client_for(replace(state, tokenizer=tokenizer, model=model))
    answer = await complete(client, prompt=[space], echo=True, logprobs=1, max_tokens=max_tokens)
    told = answer["choices"][0]["logprobs"]
    assert told["tokens"] == [" "] * (1 + max_tokens)
    assert told["token_logprobs"] == [None, *[LOGPROB] * max_tokens]


@pytest.mark.parametrize("prompt", ["hello", list(b"hello")], ids=["text", "tokens"])
async def test_an_echo_is_of_what_was_read(prompt: Any, client: httpx.AsyncClient) -> None:
    answer = await complete(
        client, prompt=prompt, truncate_prompt_tokens=3, echo=True, logprobs=0, max_tokens=0
    )
    [choice] = answer["choices"]
    assert choice["text"] == "llo"
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]


async def test_a_failure_on_the_way_is_an_error_and_no_half_of_a_prompt(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("it is gone", stage=0, worker="x"))
    error = await refused(client, 503, prompt="ab", echo=True, logprobs=1, max_tokens=0)
    assert error["message"] == "it is gone"


# -- where each token begins ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte_level", "llama", "sentencepiece"])
@pytest.mark.parametrize("text", ["the cat", " the cat", "é日本 5", "  a", "the 🐈 sat"])
def test_tokens_begin_where_their_text_does(kind: str, text: str, folders: dict[str, Path]) -> None:
    tokenizer = read_tokenizer(folders[kind])
    ids = tokenizer.encode(text)

    offsets = list(text_offsets(tokenizer, ids, text))

    assert len(offsets) == len(ids)
    assert offsets == sorted(offsets)
    assert offsets[:2] == [0, 0], "<s> is not in the text"
    seen = "".join(text[a:b] for a, b in zip(offsets, [*offsets[1:], len(text)], strict=True))
    assert seen == text
    for token_id, start, end in zip(ids[1:], offsets[1:], [*offsets[2:], len(text)], strict=True):
        own = tokenizer.token_bytes(token_id).decode(errors="replace")
        assert "\ufffd" in own or own.removeprefix(" ") == text[start:end].removeprefix(" ")


def test_a_special_token_that_the_text_spells_out_takes_its_place(
    byte_level_folder: Path,
) -> None:
    tokenizer = read_tokenizer(byte_level_folder)
    text = "</s>ab"
    ids = [1, 2, *tokenizer.encode_bare("ab")]
    assert list(text_offsets(tokenizer, ids, text))[:3] == [0, 0, 4]


# -- vLLM's field, and Text Generation Inference's -----------------------------------------------


async def test_prompt_logprobs_are_told_by_id_in_each_choice(
    state: AppState, client_for: ClientFor
) -> None:
    prompt = [Token(98, -2.0, ((99, -0.5), (100, -1.0)), 3), Token(99, -0.5, ((99, -0.5),), 1)]
    client = client_for(replace(state, engine=Told(state, prompt)))

    answer = await complete(client, prompt="abc", prompt_logprobs=2, max_tokens=1)

    [choice] = answer["choices"]
    assert choice["prompt_logprobs"] == [
        None,
        {
            "98": {"logprob": -2.0, "rank": 3, "decoded_token": "b"},
            "99": {"logprob": -0.5, "rank": 1, "decoded_token": "c"},
            "100": {"logprob": -1.0, "rank": 2, "decoded_token": "d"},
        },
        {"99": {"logprob": -0.5, "rank": 1, "decoded_token": "c"}},
    ]
    assert choice["logprobs"] is None
    assert list(choice["prompt_logprobs"][1]) == ["98", "99", "100"], "its own comes first"


async def test_an_echo_and_prompt_logprobs_each_tell_as_many_as_they_were_asked_for(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    answer = await complete(
        client, prompt="ab", echo=True, logprobs=1, prompt_logprobs=7, max_tokens=0
    )  # fmt: skip
    [choice] = answer["choices"]
    assert [len(each or ()) for each in choice["logprobs"]["top_logprobs"]] == [0, 1]
    assert [len(each or ()) for each in choice["prompt_logprobs"]] == [0, 7]
    assert engine.orders[0].scoring == Scoring(top_logprobs=7)


async def test_prompt_logprobs_come_with_no_stream(client: httpx.AsyncClient) -> None:
    error = await refused(client, stream=True, prompt_logprobs=0)
    assert "prompt_logprobs come with a whole answer only" in error["message"]


async def test_prompt_logprobs_of_a_chat_stand_beside_its_choices(
    state: AppState, client_for: ClientFor, engine: FakeEngine
) -> None:
    template: Any = AtHome("{{ messages[0].content }}", {})
    client = client_for(replace(state, chat_template=template))
    body = {"messages": [{"role": "user", "content": "ab"}], "max_tokens": 1, "n": 2}

    answer = await client.post("/v1/chat/completions", json={**body, "prompt_logprobs": 1})

    own = {"logprob": LOGPROB, "rank": 1, "decoded_token": "b"}
    assert answer.json()["prompt_logprobs"] == [None, {"98": own}]
    assert [order.scoring for order in engine.orders] == [Scoring(top_logprobs=1), None]
    assert "prompt_logprobs" not in (await client.post("/v1/chat/completions", json=body)).json()


async def test_decoder_input_details_are_the_prefill(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    parameters = {"max_new_tokens": 1, "decoder_input_details": True}

    answer = await client.post("/generate", json={"inputs": "ab", "parameters": parameters})

    assert answer.json()["details"]["prefill"] == [
        {"id": 97, "text": "a", "logprob": None},
        {"id": 98, "text": "b", "logprob": LOGPROB},
    ]
    assert engine.orders[0].scoring == Scoring()


@pytest.mark.parametrize(
    ("path", "more"), [("/generate_stream", {}), ("/", {"stream": True})], ids=str
)
async def test_a_stream_has_no_prefill(
    path: str, more: dict[str, Any], client: httpx.AsyncClient
) -> None:
    parameters = {"decoder_input_details": True}
    answer = await client.post(path, json={"inputs": "ab", "parameters": parameters, **more})
    assert answer.status_code == 422
    assert "the prompt's tokens come with a whole answer only" in answer.json()["error"]
