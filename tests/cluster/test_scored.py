"""Through real worker processes: the log-probabilities that transformers has for a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from edgeserve.config import Address
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order, Scoring, Token
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import engine_settings, order, running_engine
from tests.cluster.test_equality import FAMILIES, PROMPTS, cuts

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
ATOL = 1e-4
TOP = 4


@torch.inference_mode()
def expected(model: TinyModel, prompt: tuple[int, ...]) -> torch.Tensor:
    """[len(prompt) - 1, V]"""
    logprobs: torch.Tensor = model.reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return logprobs[:-1]


async def scored(engine: PipelineEngine, what: Order) -> tuple[list[Token], list[int]]:
    generation = await engine.submit(what)
    async with asyncio.timeout(30):
        tokens = [each.token async for each in generation]
    return generation.prompt, tokens


def check(found: list[Token], logprobs: torch.Tensor, prompt: tuple[int, ...], top: int) -> None:
    """`found` are the last tokens of the prompt."""
    assert [each.token for each in found] == list(prompt[len(prompt) - len(found) :])
    for each, row in zip(found, logprobs[len(logprobs) - len(found) :], strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=ATOL)
        assert each.rank == 1 + int((row > row[each.token]).sum())
        likely = row.topk(top)
        assert [token for token, _ in each.top] == likely.indices.tolist()
        told = [logprob for _, logprob in each.top]
        assert told == pytest.approx(likely.values.tolist(), abs=ATOL)


@pytest.mark.parametrize("layers", cuts(), ids=lambda cut: "-".join(map(str, cut)))
@pytest.mark.parametrize("family", FAMILIES)
async def test_a_prompts_log_probabilities_are_those_of_transformers(
    family: str,
    layers: tuple[int, ...],
    tiny: Callable[[str], TinyModel],
    workers: tuple[Address, ...],
) -> None:
    """Alone and side by side, in one chunk and in four, with and without an answer behind."""
    model = tiny(family)
    wanted = [expected(model, prompt) for prompt in PROMPTS]
    settings = engine_settings(
        workers[: len(layers)], model.folder, layers=layers, micro_batches=len(layers)
    )
    orders = [
        replace(order(prompt, new_tokens), scoring=Scoring(top_logprobs=TOP))
        for prompt in PROMPTS
        for new_tokens in (0, 3)
    ]
    async with running_engine(settings) as engine:
        alone = [await scored(engine, each) for each in orders]
        together = await asyncio.gather(*(scored(engine, each) for each in orders))
        assert (await engine.cluster())["pages"]["in_use"] == 0
    for answers in (alone, together):
        for i, (found, tokens) in enumerate(answers):
            check(found, wanted[i // 2], PROMPTS[i // 2], TOP)
            assert len(found) == len(PROMPTS[i // 2]) - 1
            assert tokens == (model.greedy(PROMPTS[i // 2], 3) if i % 2 else [])


async def test_neither_the_cache_nor_drafts_nor_sampling_change_a_prompts_numbers(
    tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    model, prompt = tiny("qwen3"), PROMPTS[3]
    wanted = expected(model, prompt)
    settings = engine_settings(workers, model.folder, layers=(1, 2, 1), speculate="3")
    plain = order(prompt, 12)
    hot = Sampling(
        temperature=2.0, top_k=3, seed=1, repetition_penalty=1.9, frequency_penalty=1.0,
        logit_bias=((5, 90.0),),
    )  # fmt: skip
    async with running_engine(settings) as engine:
        for first, what in (
            (1, plain),
            (1, replace(plain, sampling=hot)),
            (20, plain),  # behind a page that is cached
            (49, plain),
            (50, plain),  # beyond the prompt
        ):
            asked = replace(what, scoring=Scoring(first_position=first, top_logprobs=TOP))
            found, tokens = await scored(engine, asked)
            assert len(found) == len(prompt) - first
            check(found, wanted, prompt, TOP)
            assert len(tokens) == 12
            if what is plain:
                assert tokens == model.greedy(prompt, 12)
        assert (await engine.cluster())["cached_tokens"] == 16 + 48 + 48
