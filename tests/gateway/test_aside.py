"""Long work is done beside the event loop, and its answers are the same."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.errors import BadRequest
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.generate import admission
from edgeserve.gateway.generate.aside import AT_ONCE_MAX, aside, written
from edgeserve.gateway.text.json_text import parse_json
from edgeserve.gateway.text.tokenizer import Tokenizer
from edgeserve.gateway.text.vocabulary import ByteVocabulary
from edgeserve.testing import FakeEngine

ClientFor = Callable[[AppState], httpx.AsyncClient]


async def test_long_work_is_done_in_a_thread_and_short_work_at_once() -> None:
    here = threading.get_ident()
    assert await aside(AT_ONCE_MAX, threading.get_ident) == here
    assert await aside(AT_ONCE_MAX + 1, threading.get_ident) != here
    for size in (1, AT_ONCE_MAX + 1):
        with pytest.raises(BadRequest, match="is not JSON"):
            await aside(size, parse_json, b"{")


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"a": [], "b": {}, "": None, '\u2028"': [{"c": [[[[{"d": [1.5, "\u20ac"]}]]]]}]},
        [[[[[[[[{"deep": [True]}]]]]]]]],
    ],
)
def test_a_document_written_in_parts_is_the_same_document(document: Any) -> None:
    assert json.loads(written(document)) == document
    assert written(document) == json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        written({"a": [float("nan")]})


class Watched(Tokenizer):
    """Notes in which threads it is asked how tokens are spelt."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        super().__init__(ByteVocabulary(300))

    def piece(self, token_id: int) -> str:
        self.threads.append(threading.get_ident())
        return super().piece(token_id)


async def test_tokens_are_spelt_beside_the_loop_and_only_if_asked(
    state: AppState, client_for: ClientFor
) -> None:
    watched = Watched()
    client = client_for(replace(state, tokenizer=watched))
    text = "a" * (AT_ONCE_MAX + 1)
    plain = await client.post("/tokenize", json={"prompt": text})
    assert (plain.json()["count"], watched.threads) == (len(text), [])
    spelt = await client.post("/tokenize", json={"prompt": text, "return_token_strs": True})
    assert len(spelt.json()["token_strs"]) == len(watched.threads) == len(text)
    assert threading.get_ident() not in watched.threads


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": ["abcd", "ab"], "prompt_logprobs": 1, "n": 2},  # (4 + 2) * 2 * (1 + 1)
        {"prompt": ["abcd"] * 6, "echo": True, "logprobs": 0},
        {"prompt": ["abcdabcd"], "echo": True, "logprobs": 2, "max_tokens": 0, "stream": True},
    ],
)
async def test_log_probabilities_of_prompts_are_bounded(
    fields: dict[str, Any],
    state: AppState,
    engine: FakeEngine,
    client_for: ClientFor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what the whole answer tells: 4 KB could ask for one of 66 MB, and for gigabytes."""
    asked = {"max_tokens": 2, **fields}
    client = client_for(state)
    monkeypatch.setattr(admission, "TOLD_MAX", 24)
    assert (await client.post("/v1/completions", json=asked)).status_code == 200
    engine.orders.clear()
    monkeypatch.setattr(admission, "TOLD_MAX", 23)
    refused = await client.post("/v1/completions", json=asked)
    assert refused.status_code == 422
    assert "24 log-probabilities" in refused.json()["error"]["message"]
    assert engine.orders == []


def test_a_place_among_many_values_is_found() -> None:
    """Beside a hundred thousand others, which are not put into words."""
    body = b'{"a": [{"": 0}, {"b": [' + b"[]," * 10**5 + b'{"c": "\\ud800"}]}]}'
    with pytest.raises(Exception, match=r"^a\[1\]\.b\[100000\]\.c holds half"):
        parse_json(body)
