"""POST /tokenize and /detokenize, and GET /tokenizer_info, in vLLM's shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.tokenizer import Tokenizer, read_tokenizer
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring
from tests.gateway.test_openai_chat import AtHome

ClientFor = Callable[[AppState], httpx.AsyncClient]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if think %}hm{% endif %}{{ reasoning_effort }}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
HELLO = [{"role": "user", "content": "a day"}]


@pytest.fixture(params=["byte_level", "llama", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Tokenizer:
    return read_tokenizer(folders[request.param])


@pytest.fixture
def client(state: AppState, client_for: ClientFor, tokenizer: Tokenizer) -> httpx.AsyncClient:
    template = AtHome(TEMPLATE, {"bos_token": "<s>"})
    model = replace(state.model, vocab=tokenizer.vocab_size)
    return client_for(replace(state, tokenizer=tokenizer, model=model, chat_template=template))


async def posted(client: httpx.AsyncClient, path: str, **body: Any) -> Any:
    answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(client: httpx.AsyncClient, path: str, **body: Any) -> str:
    answer = await client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error_type"] == "validation"
    said: str = answer.json()["error"]
    return said


# -- /tokenize ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a day", "", " x", "<s> the\n\n\N{EURO SIGN}", "dog " * 9000])
async def test_a_text_is_told_as_the_tokens_of_its_prompt(
    text: str, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    framed = await posted(client, "/tokenize", prompt=text)
    assert framed == {
        "count": len(tokenizer.encode(text)),
        "max_model_len": 64,
        "tokens": tokenizer.encode(text),
        "token_strs": None,
    }
    bare = await posted(client, "/tokenize", prompt=text, add_special_tokens=False, model="fake")
    assert bare["tokens"] == tokenizer.encode_bare(text)


async def test_tokens_are_spelt_as_the_vocabulary_has_them(
    client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    told = await posted(client, "/tokenize", prompt="a day", return_token_strs=True)
    assert told["token_strs"] == [tokenizer.piece(each) for each in told["tokens"]]
    assert told["token_strs"][0] == "<s>"


@pytest.mark.parametrize(
    ("fields", "prompt"),
    [
        ({}, "<s>user:a day;assistant:"),
        ({"add_generation_prompt": False}, "<s>user:a day;"),
        ({"chat_template_kwargs": {"think": True}}, "<s>user:a day;hmassistant:"),
        ({"reasoning_effort": "low"}, "<s>user:a day;lowassistant:"),
        ({"chat_template": None, "continue_final_message": False}, "<s>user:a day;assistant:"),
    ],
)
async def test_a_conversation_is_told_as_the_tokens_of_its_prompt(
    fields: dict[str, Any], prompt: str, client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    told = await posted(client, "/tokenize", messages=HELLO, **fields)
    assert told["tokens"] == tokenizer.encode_bare(prompt)
    assert told["count"] == len(told["tokens"])
    framed = await posted(client, "/tokenize", messages=HELLO, add_special_tokens=True, **fields)
    assert framed["tokens"] == tokenizer.encode(prompt)


async def test_a_conversation_has_the_tokens_that_it_is_answered_with(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    told = await posted(client, "/tokenize", messages=HELLO)
    await posted(client, "/v1/chat/completions", messages=HELLO, max_tokens=1)
    assert [*engine.orders[0].prompt] == told["tokens"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "prompt is missing, but must be a string"),
        ({"prompt": ["a"]}, "prompt is a list of 1, but must be a string"),
        ({"prompt": "a", "messages": HELLO}, '"prompt" is not known'),
        ({"prompt": "a", "add_special": True}, "did you mean add_special_tokens?"),
        ({"prompt": "a", "return_token_strs": 1}, "return_token_strs is 1"),
        ({"messages": []}, "messages is a list of 0"),
        ({"messages": HELLO, "chat_template": "x"}, "chat_template is"),
        ({"messages": HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "has no tool_call_id"),
    ],
)
async def test_what_has_no_tokens_is_refused(
    body: dict[str, Any], said: str, client: httpx.AsyncClient
) -> None:
    assert said in await refused(client, "/tokenize", **body)


# -- /detokenize -------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a day", "", "the\n\n\N{EURO SIGN}", "dog " * 5000])
async def test_tokens_become_their_text_again(text: str, client: httpx.AsyncClient) -> None:
    for framed, begins in ((True, "<s>"), (False, "")):
        told = await posted(client, "/tokenize", prompt=text, add_special_tokens=framed)
        again = await posted(client, "/detokenize", tokens=told["tokens"])
        gap = " " if text and framed and again["prompt"].startswith("<s> ") else ""
        assert again == {"prompt": begins + gap + text}


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([-1], "tokens[0] is -1, but tokens must be a list of"),
        ([1.0], "tokens[0] is 1.0"),
        ([True], "tokens[0] is true"),
        ("a", 'tokens is "a"'),
        ([1] * (2**18 + 1), "tokens is a list of 262145, but must be a list of at most 262144"),
        ([2**20], "tokens has 1048576; this model's vocabulary allows at most"),
    ],
)
async def test_what_is_no_token_is_refused(
    tokens: Any, said: str, client: httpx.AsyncClient
) -> None:
    assert said in await refused(client, "/detokenize", tokens=tokens)


# -- /tokenizer_info, and all of them ----------------------------------------------------------


async def test_the_tokenizer_says_what_it_puts_around_a_text(
    client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    told = (await client.get("/tokenizer_info")).json()
    assert told == {
        "model_max_length": 64,
        "vocab_size": tokenizer.vocab_size,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": None,
        "unk_token": None,
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": '{%- set bos_token = bos_token | default("<s>") %}' + TEMPLATE,
    }


async def test_the_template_can_be_rendered_by_those_who_know_no_special_tokens(
    client: httpx.AsyncClient, tokenizer: Tokenizer
) -> None:
    told = (await client.get("/tokenizer_info")).json()["chat_template"]
    given = {"messages": HELLO, "add_generation_prompt": True, "think": False}
    plain = jinja2.Environment(undefined=jinja2.StrictUndefined)  # no web page
    template = plain.from_string(told)
    prompt = template.render(**given, reasoning_effort="")
    tokens = (await posted(client, "/tokenize", messages=HELLO))["tokens"]
    assert tokenizer.encode_bare(prompt) == tokens
    assert template.render(**given, reasoning_effort="", bos_token="[B]").startswith("[B]user")


async def test_what_the_folder_does_not_name_is_null(
    state: AppState, client_for: ClientFor
) -> None:
    told = (await client_for(state).get("/tokenizer_info")).json()
    assert (told["bos_token"], told["pad_token"], told["chat_template"]) == (None, None, None)
    assert told["eos_token"] == "<0x02>", "the model's own end, as the vocabulary spells it"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/tokenizer_info"])
async def test_the_tokenizer_is_closed_to_those_without_the_key(
    path: str, state: AppState, client_for: ClientFor, clock: ManualClock
) -> None:
    client = client_for(replace(state, keys=key_ring(clock, {"us": "secret"})))
    method = "GET" if path == "/tokenizer_info" else "POST"
    answer = await client.request(method, path, json={"prompt": "a", "tokens": [1]})
    assert answer.status_code == 401


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_the_tokenizer_of_another_model_is_not_there(
    path: str, state: AppState, client_for: ClientFor
) -> None:
    body = {"model": "another"} | ({"prompt": "a"} if path == "/tokenize" else {"tokens": [1]})
    answer = await client_for(state).post(path, json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")
