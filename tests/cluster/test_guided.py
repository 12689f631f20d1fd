"""Answers held to a schema, through real worker processes."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from edgeserve.config import Address
from edgeserve.frames.sampling import Sampling
from edgeserve.gateway.text.grammar import Guides, TokenGuide
from edgeserve.gateway.text.tokenizer import read_tokenizer
from edgeserve.pipeline.generation import Order
from tests.cluster.conftest import StartGateway, TinyModel
from tests.cluster.processes import (
    START_S,
    ask,
    engine_settings,
    order,
    running_engine,
    tokens_of,
)
from tests.gateway.schemas import random_schema

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(120)]

openai = pytest.importorskip("openai")
ANSWERS = 40
EOS = 2
Complete = Callable[..., Awaitable[Any]]
PROMPT = (1, 300, 301, 302, 20, 21)
SCHEMA = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "maxLength": 9},
        "parts": {"type": "array", "items": {"enum": ["cat", "dog", 7]}, "maxItems": 3},
        "share": {"type": "integer", "minimum": 10, "maximum": 99},
    },
    "required": ["who", "parts", "share"],
    "additionalProperties": False,
}


@pytest.fixture
async def guide(talker: TinyModel) -> TokenGuide:
    tokenizer = read_tokenizer(Path(talker.folder))
    return await Guides(tokenizer, frozenset({EOS}), tokenizer.vocab_size).json_schema(SCHEMA)


@pytest.fixture
async def complete(
    talker: TinyModel, workers: tuple[Address, ...], gateway: StartGateway
) -> AsyncIterator[Complete]:
    """OpenAI's client on a gateway of its own."""
    url = gateway(workers, talker.folder).wait_until_announced(START_S)
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield partial(client.completions.create, model=Path(talker.folder).name)


async def test_every_answer_is_what_its_schema_says(complete: Complete) -> None:
    """By OpenAI's client, all at once, and beside others that are held to nothing."""
    draw = random.Random(4)
    schemas = [random_schema(draw) for _ in range(ANSWERS)]
    alone = await _text(complete, "the dog and the cat", None, 0)
    texts = await asyncio.gather(
        *(_text(complete, f"text {i}", schema, i) for i, schema in enumerate(schemas)),
        *(_text(complete, "the dog and the cat", None, 0) for _ in range(3)),
    )
    assert texts[ANSWERS:] == [alone] * 3
    for schema, text in zip(schemas, texts, strict=False):
        jsonschema.validate(json.loads(text), schema)


async def _text(complete: Complete, prompt: str, schema: Any, seed: int) -> str:
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    answer = await complete(
        prompt=prompt, max_tokens=1600 if schema else 60, seed=seed,
        temperature=1.2 if schema else 0,
        extra_body={"response_format": form} if schema else {},
    )  # fmt: skip
    [choice] = answer.choices
    assert choice.finish_reason == "stop" or schema is None
    text: str = choice.text
    return text


async def test_greedy_guided_tokens_are_the_likeliest_that_may_come(
    talker: TinyModel, workers: tuple[Address, ...], guide: TokenGuide
) -> None:
    """By transformers' logits and llguidance's masks, a token at a time."""
    asked = replace(order(PROMPT, 200, Sampling()), stop_ids=frozenset({EOS}))
    expected = _by_definition(talker, asked, guide.copy())
    assert expected[-1] == EOS
    assert expected != talker.greedy(PROMPT, len(expected))
    settings = engine_settings(workers, talker.folder, layers=(1, 2, 1))
    async with running_engine(settings) as engine:
        assert await ask(engine, replace(asked, guide=guide.copy())) == expected


async def test_a_guided_neighbour_changes_nothing(
    talker: TinyModel, workers: tuple[Address, ...], guide: TokenGuide
) -> None:
    samplings = [Sampling(), Sampling(temperature=1.3, seed=5), Sampling(repetition_penalty=1.4)]
    free = [order(PROMPT, 40, each) for each in samplings]
    held = replace(order(PROMPT, 200, Sampling(temperature=1.1, seed=6)), stop_ids=frozenset({EOS}))
    async with running_engine(engine_settings(workers, talker.folder)) as engine:
        alone = [await ask(engine, each) for each in free]
        held_alone = await ask(engine, replace(held, guide=guide.copy()))
        orders = [order for each in free for order in (each, replace(held, guide=guide.copy()))]
        running = [await engine.submit(each) for each in orders]
        together = [await tokens_of(each) for each in running]
    assert together[::2] == alone
    assert together[1::2] == [held_alone] * 3


@torch.inference_mode()
def _by_definition(model: TinyModel, what: Order, guide: TokenGuide) -> list[int]:
    generated: list[int] = []
    while not generated or (generated[-1] != EOS and len(generated) < what.max_new_tokens):
        logits = model.reference(torch.tensor([[*what.prompt, *generated]])).logits[0, -1].tolist()
        mask = int.from_bytes(guide.mask(), "little")
        may = [token for token in range(len(logits)) if mask >> token & 1]
        generated.append(max(may, key=logits.__getitem__))
        if generated[-1] != EOS:
            guide.advance(generated[-1])
    return generated
