"""Through real worker processes: the tokens of transformers, whatever the cut and the company."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from itertools import combinations, pairwise

import pytest
import torch

from edgeserve.config import Address
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    ask,
    engine_settings,
    first_tokens,
    order,
    running_engine,
    tokens_of,
)
from tests.model.tiny import LAYERS, OWN_HEAD, VOCAB

pytestmark = pytest.mark.cluster

FAMILIES = ("llama2", "llama3", "mistral", "qwen2", "qwen3", "tied", OWN_HEAD)
NEW_TOKENS = 10
_draw = random.Random(7)
PROMPTS = tuple(
    tuple(_draw.randrange(3, VOCAB) for _ in range(length)) for length in (1, 7, 16, 50)
)
"""The last takes four chunks of 16, and is longer than any sliding window."""
SAMPLINGS = {
    "temperature": Sampling(temperature=1.3, seed=1),
    "top_k": Sampling(temperature=2.0, top_k=5, seed=2),
    "top_p": Sampling(temperature=1.5, top_p=0.7, seed=3),
    "min_p": Sampling(temperature=2.5, min_p=0.1, seed=4),
    "penalty": Sampling(temperature=0.8, repetition_penalty=1.7, seed=5),
    "greedy_penalty": Sampling(repetition_penalty=1.9),
    "frequency": Sampling(temperature=1.4, frequency_penalty=1.5, seed=6),
    "presence": Sampling(temperature=1.1, presence_penalty=-1.0, seed=7, top_logprobs=3),
    "bias": Sampling(temperature=1.2, logit_bias=((5, 3.0), (6, -100.0)), seed=8),
    "all": Sampling(
        temperature=1.7, top_k=30, top_p=0.95, min_p=0.02, repetition_penalty=1.2, seed=2**64 - 1
    ),
}


def cuts() -> list[tuple[int, ...]]:
    """All ways to cut the layers over 1, 2 and 3 workers."""
    found = []
    for workers in (1, 2, 3):
        for inner in combinations(range(1, LAYERS), workers - 1):
            ends = (0, *inner, LAYERS)
            found.append(tuple(b - a for a, b in pairwise(ends)))
    return found


def test_every_cut_is_tried() -> None:
    assert cuts() == [(4,), (1, 3), (2, 2), (3, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("layers", cuts(), ids=lambda cut: "-".join(map(str, cut)))
@pytest.mark.parametrize("family", FAMILIES)
async def test_greedy_tokens_are_those_of_transformers(
    family: str,
    layers: tuple[int, ...],
    tiny: Callable[[str], TinyModel],
    workers: tuple[Address, ...],
) -> None:
    model = tiny(family)
    expected = [model.greedy(prompt, NEW_TOKENS) for prompt in PROMPTS]
    for micro_batches in (1, 3):
        settings = engine_settings(
            workers[: len(layers)], model.folder, layers=layers, micro_batches=micro_batches
        )
        async with running_engine(settings) as engine:
            assert await _cut(engine) == layers
            for prompt, tokens in zip(PROMPTS, expected, strict=True):
                assert await ask(engine, order(prompt, NEW_TOKENS)) == tokens, "alone"
            batched = await _one_after_another(engine, [order(p, NEW_TOKENS) for p in PROMPTS])
            assert batched == expected, "in a batch that the others join later"


@pytest.mark.slow
async def test_a_sampled_sequence_is_the_same_alone_in_a_batch_and_on_another_day(
    tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    model = tiny("llama3")
    orders = [order(prompt, 20, each) for each in SAMPLINGS.values() for prompt in PROMPTS[1:3]]
    settings = engine_settings(workers, model.folder, layers=(1, 2, 1))
    async with running_engine(settings) as engine:
        alone = [await ask(engine, each) for each in orders]
        in_a_batch = await _one_after_another(engine, orders)
    another = engine_settings(workers[:2], model.folder, layers=(3, 1), micro_batches=3)
    async with running_engine(another) as engine:
        on_another_day = await _one_after_another(engine, orders)
    assert in_a_batch == alone
    assert on_another_day == alone
    # Sampling does something: greedy tokens are others, and so are those of other settings.
    greedy = [model.greedy(prompt, 20) for prompt in PROMPTS[1:3]]
    assert all(tokens not in greedy for tokens in alone)
    assert len({tuple(tokens) for tokens in alone}) == len(alone)


@pytest.mark.slow
@pytest.mark.parametrize("speculate", ["off", "3"])
async def test_greedy_tokens_under_penalties_and_biases_are_those_of_the_definition(
    speculate: str, tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    model = tiny("qwen3")
    kinds = [
        Sampling(frequency_penalty=1.2, top_logprobs=3),
        Sampling(presence_penalty=-2.0, frequency_penalty=0.4),
        Sampling(presence_penalty=2.0, frequency_penalty=-0.4, top_logprobs=20),
        Sampling(logit_bias=((11, 2.0), (50, -3.0)), top_logprobs=1),
    ]
    orders = [order(PROMPTS[2], 40, each) for each in [*kinds, Sampling(top_logprobs=2)]]
    expected = [_by_definition(model, each) for each in orders]
    assert len({tuple(token for token, _ in each) for each in expected}) == len(orders)
    settings = engine_settings(workers, model.folder, layers=(1, 2, 1), speculate=speculate)
    async with running_engine(settings) as engine:
        running = [await engine.submit(each) for each in orders]
        for generation, wanted in zip(running, expected, strict=True):
            tokens = [token async for token in generation]
            assert [each.token for each in tokens] == [token for token, _ in wanted]
            for each, (_, top) in zip(tokens, wanted, strict=True):
                assert [token for token, _ in each.top] == list(top)
                told = [logprob for _, logprob in each.top]
                assert told == pytest.approx(list(top.values()), abs=1e-3)


@torch.inference_mode()
def _by_definition(model: TinyModel, what: Order) -> list[tuple[int, dict[int, float]]]:
    """Greedy tokens and what was likely beside them: transformers' logits, OpenAI's formula."""
    sampling, generated, found = what.sampling, list[int](), []
    for _ in range(what.max_new_tokens):
        logits = model.reference(torch.tensor([[*what.prompt, *generated]])).logits[0, -1]
        top = logits.log_softmax(-1).topk(sampling.top_logprobs)
        for token, bias in sampling.logit_bias:
            logits[token] += bias
        for token in set(generated):
            count = generated.count(token)
            logits[token] -= count * sampling.frequency_penalty + sampling.presence_penalty
        generated.append(int(logits.argmax()))
        likely = dict(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        found.append((generated[-1], likely))
    return found


@pytest.mark.slow
async def test_another_seed_gives_other_tokens_and_the_same_seed_the_same(
    tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    async with running_engine(engine_settings(workers, tiny("qwen3").folder)) as engine:
        drawn = [
            await ask(engine, order(PROMPTS[1], 20, Sampling(temperature=2.0, seed=seed)))
            for seed in (1, 1, 2)
        ]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.slow
async def test_a_cancelled_neighbour_changes_nothing_and_its_pages_are_reused(
    tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    model = tiny("llama2")
    expected = model.greedy(PROMPTS[3], 60)
    async with running_engine(engine_settings(workers, model.folder)) as engine:
        stays = await engine.submit(order(PROMPTS[3], 60))
        for _ in range(3):
            leaves = await engine.submit(order(PROMPTS[2], 100))
            await first_tokens(leaves, 3)
            leaves.cancel()
        assert await tokens_of(stays) == expected
        assert await ask(engine, order(PROMPTS[3], 60)) == expected, "on pages that others had"
        assert (await engine.cluster())["pages"]["in_use"] == 0


async def _one_after_another(engine: PipelineEngine, orders: Sequence[Order]) -> list[list[int]]:
    """Each arrives when the one before it has its first tokens, so each batch is another."""
    running = []
    for each in orders:
        generation = await engine.submit(each)
        begun = await first_tokens(generation, 2)
        rest = asyncio.create_task(tokens_of(generation))
        running.append(([token.token for token in begun], rest))
    return [begun + await rest for begun, rest in running]


async def _cut(engine: PipelineEngine) -> tuple[int, ...]:
    return tuple(
        end - start for start, end in (s["layers"] for s in (await engine.cluster())["stages"])
    )
