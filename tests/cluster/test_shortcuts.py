"""Shared beginnings and drafted tokens: less work over real workers, and the same answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import engine_settings, order, running_engine, tokens_of
from tests.model.tiny import VOCAB, save_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

_draw = random.Random(11)
TEXT = tuple(_draw.randrange(3, VOCAB) for _ in range(40))
REPETITIVE = TEXT[:6] * 6
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.3, seed=5),
    Sampling(temperature=1.2, seed=6),
    Sampling(logit_bias=((9, 3.0),)),
    Sampling(frequency_penalty=0.8, presence_penalty=0.3),
)


Answer = tuple[list[int], dict[str, Any]]
"""Its tokens and its receipt."""


@pytest.fixture(scope="module")
def plain_of() -> dict[str, list[Answer]]:
    """Answers of each family without drafts: the same whatever the engine would draft."""
    return {}


async def _answer(engine: PipelineEngine, what: Order) -> Answer:
    generation = await engine.submit(what)
    tokens = await tokens_of(generation)
    return tokens, generation.receipt(MonotonicClock().now_s(), len(tokens))


def _copier(folder: Any) -> str:
    """A model that says again what it was told: rigged so that the last token alone decides, and
    each token is followed by the next one of a ring.
    """
    save_tiny("llama2", folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name:
            tensors[name] = torch.zeros_like(tensor)
    hidden = tensors["model.embed_tokens.weight"].shape[1]
    table = torch.nn.functional.normalize(
        torch.randn(VOCAB, hidden, generator=torch.manual_seed(0)), dim=-1
    )
    tensors["model.embed_tokens.weight"] = table
    tensors["model.norm.weight"] = torch.ones(hidden)
    tensors["lm_head.weight"] = table.roll(1, dims=0).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("speculate", ["auto", "1", "7"])
@pytest.mark.parametrize("family", ["llama2", "mistral", "qwen3"])
async def test_drafted_tokens_change_nothing_but_the_number_of_laps(
    family: str,
    speculate: str,
    tiny: Callable[[str], TinyModel],
    workers: tuple[Address, ...],
    plain_of: dict[str, list[Answer]],
) -> None:
    model = tiny(family)
    orders = [
        order(prompt, 40, sampling)
        for prompt in (REPETITIVE, TEXT + TEXT[:20])
        for sampling in SAMPLINGS
    ]
    settings = engine_settings(workers, model.folder, speculate=speculate)
    async with running_engine(settings) as engine:
        first = await _answer(engine, replace(orders[0], speculate=False))
        if family not in plain_of:
            plain_of[family] = [
                await _answer(engine, replace(each, speculate=False)) for each in orders
            ]
        plain = plain_of[family]
        drafted = [await _answer(engine, each) for each in orders]
        together = await asyncio.gather(*(_answer(engine, each) for each in orders))
    assert [tokens for tokens, _ in drafted] == [tokens for tokens, _ in plain]
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in plain]
    assert plain[0][0] == first[0] == model.greedy(REPETITIVE, 40)
    assert all(receipt["decode"]["laps"] == 39 for _, receipt in [first, *plain])
    assert all(receipt["decode"]["tokens"] == 39 for _, receipt in drafted)


async def test_an_answer_that_quotes_its_prompt_takes_a_fraction_of_the_laps(
    tmp_path: Any, workers: tuple[Address, ...]
) -> None:
    """The ring of tokens is in the prompt, so all that is said stands there."""
    folder = _copier(tmp_path)
    ring = [token % VOCAB for token in range(3, 3 + 80)]
    what = order([*ring, 3], 64)
    async with running_engine(engine_settings(workers, folder)) as engine:
        plain, slow = await _answer(engine, replace(what, speculate=False))
        drafted, fast = await _answer(engine, what)
    assert plain == ring[1:65], "the rig does what it says"
    assert drafted == plain
    assert slow["decode"]["laps"] == 63
    assert fast["decode"]["laps"] <= 63 / 5


@pytest.mark.parametrize("family", ["llama2", "mistral", "qwen3"])
async def test_a_prompt_that_begins_like_another_is_answered_as_if_it_were_alone(
    family: str, tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    model = tiny(family)
    prompts = [TEXT, TEXT, TEXT[:32], (*TEXT[:20], *TEXT[:12])]
    async with running_engine(engine_settings(workers, model.folder)) as engine:
        answers = [await _answer(engine, order(prompt, 12)) for prompt in prompts]
        continued = [*TEXT, *answers[0][0]]
        answers.append(await _answer(engine, order([*continued, 5], 12)))
    assert [tokens for tokens, _ in answers] == [
        model.greedy(prompt, 12) for prompt in [*prompts, (*continued, 5)]
    ]
    cached = [receipt["prefill"]["cached_tokens"] for _, receipt in answers]
    assert cached == [0, 32, 16, 16, 48]
    #      all but the page of the last token; the answer's page counts, too


async def test_nothing_is_shared_across_tenants_nor_without_the_cache(
    tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    folder = tiny("llama2").folder
    tenants = ("Bearer a", "Bearer b", "Bearer a")

    async def cached(prefix_cache: str) -> Sequence[int]:
        settings = engine_settings(workers, folder, prefix_cache=prefix_cache)
        async with running_engine(settings) as engine:
            receipts = [
                (await _answer(engine, replace(order(TEXT, 2), tenant=tenant)))[1]
                for tenant in tenants
            ]
            kept = (await engine.cluster())["pages"]["kept"]
            assert (kept > 0) == (prefix_cache == "on")
        return [receipt["prefill"]["cached_tokens"] for receipt in receipts]

    assert await cached("on") == [0, 0, 32]
    assert await cached("off") == [0, 0, 0]
