"""One streamed answer of a gateway, and the instant at which each of its tokens came.

What a user gets is all in it: HTTP both ways, tokenizer, scheduler, wire and stages. Refuses to
know what the instants are wanted for. Without a time limit of its own beyond a silence.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

SILENCE_S = 300.0
"""After which a run is given up: a prompt of 2,000 tokens takes a minute on a slow box."""


@dataclass(frozen=True, kw_only=True)
class Question:
    text: str
    new_tokens: int
    prompt_tokens: int | None = None
    """So many are kept of the text; None keeps all."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    sent_s: float
    token_s: tuple[float, ...]
    token_ids: tuple[int, ...]
    receipt: Mapping[str, Any]

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[tuple[float, float]]:
        """When each token but the first came, and how long after the one before."""
        pairs = zip(self.token_s, self.token_s[1:], strict=False)
        return [(after_s, after_s - before_s) for before_s, after_s in pairs]


def open_http(url: str, api_key: str = "") -> httpx.AsyncClient:
    """A connection for each request that is under way; no proxy, which would be measured too."""
    return httpx.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        timeout=httpx.Timeout(SILENCE_S, pool=None),
        trust_env=False,
    )


async def ask_all(http: httpx.AsyncClient, questions: Sequence[Question]) -> list[Answer]:
    """All at once."""
    return list(await asyncio.gather(*(ask(http, each) for each in questions)))


async def ask(http: httpx.AsyncClient, question: Question) -> Answer:
    """Greedy, and past the model's own end. Ends the benchmark if the gateway refuses."""
    parameters: dict[str, Any] = {"max_new_tokens": question.new_tokens, "ignore_eos": True}
    if question.prompt_tokens is not None:
        parameters["truncate"] = question.prompt_tokens
    body = {"inputs": question.text, "parameters": {**parameters, "details": True}}
    sent_s = time.perf_counter()
    async with http.stream("POST", "/generate_stream", json=body) as response:
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            raise SystemExit(f"the gateway refuses a request of the benchmark: {text}")
        lines = response.aiter_lines()
        events = [(time.perf_counter(), each) async for each in lines if each.startswith("data:")]
    return read_answer(sent_s, events)


def read_answer(sent_s: float, events: Sequence[tuple[float, str]]) -> Answer:
    """Read when all have come: parsing between tokens would be measured too."""
    documents = [json.loads(line.removeprefix("data:")) for _, line in events]
    last = documents[-1] if documents else {}
    if "timing" not in last:
        raise SystemExit(f"a stream ended without a receipt: {last.get('error', 'no event came')}")
    return Answer(
        sent_s=sent_s,
        token_s=tuple(at_s for at_s, _ in events),
        token_ids=tuple(each["token"]["id"] for each in documents),
        receipt=last["timing"],
    )
