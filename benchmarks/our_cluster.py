"""edgeserve as a system under test: worker processes and a gateway, asked over HTTP.

HTTP through the gateway is what a user gets, so that is what is timed; the client's own work and
the gateway's share the cores with the workers, and none of it is subtracted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.client import Question, ask, ask_all, open_http
from benchmarks.machine import peak_rss_bytes
from benchmarks.measures import (
    CONTEXTS,
    DECODE_BATCHES,
    DECODE_STEPS,
    MODEL,
    PREFILL_TOKENS,
    PROMPT_TOKENS,
    Figures,
    context_ms,
    decode,
    memory_bound,
    memory_peak,
    prefill,
)
from benchmarks.windows import decode_tok_s, median_gap_s
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.launch.processes import Child, start_child
from edgeserve.probe.prompts import prompt_text

START_TIMEOUT_S = 300.0
STAGGER_STEPS = 64
"""Sequences of a batch begin to decode one prompt after another; only the time in which all of them
decode counts."""
DECODE_SLOWDOWN = "8"
"""Beside those that decode already, prompts are read so fast that the batch is soon complete."""
SPECULATE = "off"
"""A random model repeats itself, which guessing from the prompt would take for its own merit."""
WEIGHTS_SLACK = 1.15  # stages are not of one size: one has the embedding, one the head
PAGES_AND_RESERVE_BYTES = 600 * 10**6
RSS_ALLOWED_BYTES = 600 * 10**6
"""What the project allows a worker beside its slice and its pages."""


@dataclass(frozen=True, kw_only=True)
class OurCluster:
    workers: int
    dtype: str
    threads: int
    """Of each worker: one sequence's frame is in one stage at a time."""

    def measure(self, parts: Collection[str]) -> Figures:
        """Starts a cluster, measures each of `parts` once, and ends it."""
        with self.running() as (url, children):
            figures = asyncio.run(_measure(url, parts))
            if "memory" in parts:
                stages = httpx.get(f"{url}/v1/cluster").json()
                figures |= _memory(stages, [child.process.pid for child in children])
        return figures

    @contextmanager
    def running(self) -> Iterator[tuple[str, list[Child]]]:
        """Its URL, and the workers."""
        children: list[Child] = []
        try:
            children.extend(self._start_worker(i) for i in range(self.workers))
            addresses = [each.wait_until_announced(START_TIMEOUT_S) for each in children]
            children.append(self._start_gateway(addresses))
            yield children[-1].wait_until_announced(START_TIMEOUT_S), children[: self.workers]
        finally:
            for child in reversed(children):
                child.stop()

    def _start_worker(self, i: int) -> Child:
        dtype = Dtype(self.dtype)
        weight_bytes = 1 if dtype.is_quantised else dtype.size_bytes
        weights_bytes = SHAPES[MODEL].parameters * weight_bytes
        memory = int(WEIGHTS_SLACK * weights_bytes / self.workers) + PAGES_AND_RESERVE_BYTES
        flags = ["--threads", str(self.threads), "--memory", str(memory), "--device", "cpu"]
        return start_child(
            f"worker {i}",
            ["worker", "--listen", "127.0.0.1:0", *flags],
            "edgeserve worker listening on",
            {},
        )

    def _start_gateway(self, addresses: list[str]) -> Child:
        return start_child(
            "the gateway",
            ["gateway", "--workers", ",".join(addresses), "--model", MODEL, "--dtype", self.dtype,
             "--listen", "127.0.0.1:0", "--drain-timeout", "8",
             "--decode-slowdown", DECODE_SLOWDOWN, "--speculate", SPECULATE],
            "edgeserve gateway serving at",
            {},
        )  # fmt: skip


async def _measure(url: str, parts: Collection[str]) -> Figures:
    figures: Figures = {}
    async with open_http(url) as http:
        await ask(http, question(PREFILL_TOKENS, 8, "warm-up"))
        if "decode" in parts:
            for batch in DECODE_BATCHES:
                figures[decode(batch)] = await _decode_tok_s(http, batch)
        elif "int8" in parts:
            figures[decode(1)] = await _decode_tok_s(http, 1)
        if "prefill" in parts:
            answer = await ask(http, question(PREFILL_TOKENS, 1, "prefill"))
            figures[prefill()] = PREFILL_TOKENS / answer.ttft_s
        if "context" in parts:
            for tokens in CONTEXTS:
                answer = await ask(http, question(tokens, DECODE_STEPS + 1, "context"))
                figures[context_ms(tokens)] = 1e3 * median_gap_s(answer)
    return figures


async def _decode_tok_s(http: httpx.AsyncClient, batch: int) -> float:
    new_tokens = DECODE_STEPS + 1 + (STAGGER_STEPS if batch > 1 else 0)
    questions = [question(PROMPT_TOKENS, new_tokens, f"{batch}/{i}") for i in range(batch)]
    return decode_tok_s([each.token_s for each in await ask_all(http, questions)])


def question(tokens: int, new_tokens: int, seed: str) -> Question:
    return Question(
        text=prompt_text(tokens, f"{tokens}/{seed}"), prompt_tokens=tokens, new_tokens=new_tokens
    )


def _memory(cluster: dict[str, Any], pids: list[int]) -> Figures:
    """In MB, so that the tables can show it as it is."""
    figures: Figures = {}
    for stage, pid in zip(cluster["stages"], pids, strict=True):
        start, end = stage["layers"]
        page_bytes = SHAPES[MODEL].kv_bytes_per_token(end - start, Dtype.BF16)
        pages_bytes = stage["pages"] * cluster["pages"]["page_tokens"] * page_bytes
        bound = stage["slice_bytes"] + pages_bytes + RSS_ALLOWED_BYTES
        figures[memory_peak(stage["stage"])] = peak_rss_bytes(pid) / 1e6
        figures[memory_bound(stage["stage"])] = bound / 1e6
    return figures
