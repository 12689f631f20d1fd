"""How an answer ends: ends of the model, stop strings that name special tokens, on every route."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.text.tokenizer import open_tokenizer
from edgeserve.testing import FakeEngine
from tests.gateway.test_openai_chat import AtHome

UNK, BOS, EOS = 0, 1, 2  # all special in the folder's files
ClientFor = Callable[[AppState], httpx.AsyncClient]


@dataclass(frozen=True, kw_only=True)
class Said:
    """One answer, as each route has it."""

    text: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that says what it is given; token by token."""

    state: AppState
    client_for: ClientFor

    def ids(self, *said: str | int) -> list[int]:
        encode = self.state.tokenizer.encode_bare
        return [i for each in said for i in (encode(each) if isinstance(each, str) else [each])]

    def saying(self, *said: str | int) -> tuple[httpx.AsyncClient, FakeEngine]:
        engine = FakeEngine(ManualClock(), self.ids(*said))
        return self.client_for(replace(self.state, engine=engine)), engine


@pytest.fixture
def model(state: AppState, client_for: ClientFor, byte_level_folder: Path) -> Model:
    """Its own configuration names none of its ends."""
    tokenizer = open_tokenizer(byte_level_folder, 0)
    facts = replace(state.model, vocab=tokenizer.vocab_size, eos_ids=frozenset())
    template = AtHome("{% for m in messages %}{{ m.content }}{% endfor %}", {})
    changed = replace(state, model=facts, tokenizer=tokenizer, chat_template=template)
    return Model(state=changed, client_for=client_for)


async def post(client: httpx.AsyncClient, path: str, **fields: Any) -> Said:
    wishes = {"details": True, "max_new_tokens": 20, **fields}
    answer = await client.post(path, json={"inputs": "the", "parameters": wishes})
    assert answer.status_code == 200, answer.text
    events = [answer.json()] if path == "/generate" else streamed(answer.text)
    pieces = events[-1]["details"].get("tokens") or [event["token"] for event in events]
    assert "".join(piece["text"] for piece in pieces) == events[-1]["generated_text"]
    return Said(text=events[-1]["generated_text"], reason=events[-1]["details"]["finish_reason"])


async def ask(client: httpx.AsyncClient, path: str, **fields: Any) -> Said:
    is_chat = path.endswith("chat/completions")
    prompt = {"messages": [{"role": "user", "content": "the"}]} if is_chat else {"prompt": "the"}
    answer = await client.post(path, json={**prompt, **fields})
    assert answer.status_code == 200, answer.text
    events = streamed(answer.text) if fields["stream"] else [answer.json()]
    choices = [event["choices"][0] for event in events]
    said = [c.get("delta") or c.get("message") or c for c in choices]
    text = "".join(each.get("content") or each.get("text") or "" for each in said)
    return Said(text=text, reason=choices[-1]["finish_reason"])


def streamed(body: str) -> list[Any]:
    events = [event.removeprefix("data:") for event in body.strip().split("\n\n")]
    return [json.loads(event) for event in events if event.strip() != "[DONE]"]


@pytest.mark.parametrize(
    ("said", "fields", "text", "reason"),
    [
        (["the girl", EOS, "dog"], {}, "the girl", "eos_token"),
        (["the girl", EOS, "dog"], {"stop": ["</s>"]}, "the girl", "eos_token"),
        (
            ["the girl", EOS, "dog"],
            {"stop": ["</s>"], "ignore_eos": True},
            "the girl",
            "stop_sequence",
        ),
        (["a", EOS], {"stop_token_ids": [EOS], "ignore_eos": True}, "a", "stop_sequence"),
        (["the girl", BOS, "dog"], {"stop": ["<s>"]}, "the girl", "stop_sequence"),
        (["the girl", BOS, "dog"], {"stop": ["cat", "<s>"]}, "the girl", "stop_sequence"),
        (["the cat", BOS, "dog"], {"stop": ["cat", "<s>"]}, "the ", "stop_sequence"),
        (["the girl", BOS, "dog"], {"stop": ["girl<s>"]}, "the ", "stop_sequence"),
        (["the girl", BOS, "dog"], {"stop": ["<s>d"]}, "the girl", "stop_sequence"),
        (["the girl", BOS, "dog", EOS], {"stop": ["<s>cat"]}, "the girldog", "eos_token"),
        (["the girl", EOS, "dog"], {"stop": ["girl</s>"]}, "the ", "stop_sequence"),
        (["the <", "s> dog"], {"stop": ["<s>"]}, "the ", "stop_sequence"),
        (
            ["a", EOS, "b"],
            {"stop": ["x"], "ignore_eos": True, "max_new_tokens": 3, "max_tokens": 3},
            "ab",
            "length",
        ),
    ],
)
async def test_what_ends_an_answer_is_no_part_of_it_and_is_told_on_every_route(
    said: Sequence[str | int], fields: dict[str, Any], text: str, reason: str, model: Model
) -> None:
    flat = {name: value for name, value in fields.items() if name != "max_new_tokens"}
    ours = {name: value for name, value in fields.items() if name != "max_tokens"}
    client, _ = model.saying(*said)
    for path in ("/generate", "/generate_stream"):
        assert await post(client, path, **ours) == Said(text=text, reason=reason)
    openai = "length" if reason == "length" else "stop"
    for path in ("/v1/completions", "/v1/chat/completions"):
        for stream in (False, True):
            asked = {"temperature": 0, "max_tokens": 20, "stream": stream, **flat}
            assert await ask(client, path, **asked) == Said(text=text, reason=openai)


async def test_a_special_token_that_stops_ends_the_work_and_has_no_logprobs(model: Model) -> None:
    client, engine = model.saying("ab", BOS, "c")
    fields = {"prompt": "the", "stop": ["<s>", "zz"], "logprobs": 0, "max_tokens": 20}
    answer = await client.post("/v1/completions", json=fields)
    choice = answer.json()["choices"][0]
    assert (choice["text"], choice["logprobs"]["tokens"]) == ("ab", ["a", "b"])
    assert engine.orders[0].stop_ids == {BOS, EOS}
    assert engine.cancelled == []


async def test_a_special_token_beyond_the_model_is_no_stop_token(model: Model) -> None:
    facts = replace(model.state.model, vocab=1)
    client = model.client_for(replace(model.state, model=facts))
    wishes = {"stop": ["<s>"], "max_new_tokens": 1}
    answer = await client.post("/generate", json={"inputs": "<unk>", "parameters": wishes})
    assert answer.status_code in (200, 422), answer.text


async def test_an_echo_of_tokens_has_the_special_tokens_that_an_echo_of_text_has(
    model: Model,
) -> None:
    client, _ = model.saying("x")
    ids = model.ids(BOS, "the", EOS, "girl")
    for prompt in ("<s>the</s>girl", ids):
        fields = {"prompt": prompt, "echo": True, "max_tokens": 1, "temperature": 0}
        answer = await client.post("/v1/completions", json=fields)
        assert answer.json()["choices"][0]["text"] == "<s>the</s>girlx"
