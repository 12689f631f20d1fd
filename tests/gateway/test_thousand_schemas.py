"""A thousand random schemas, seeds and samplings: every answer parses, and is what its schema says.

A tiny random model in this process: its logits, the guides and the sampling are those of a cluster.
`tests/cluster/test_guided.py` has some through real workers.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from edgeserve.families.folder import open_model
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import cut
from edgeserve.gateway.text.grammar import Guides, TokenGuide
from edgeserve.gateway.text.tokenizer import Tokenizer, read_tokenizer
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.pages import KvPages
from edgeserve.model.product import LeavePlain
from edgeserve.model.sampling import SampleRow, choose
from edgeserve.model.weights import WeightForm, load_slice
from tests.gateway.schemas import random_schema
from tests.model.tiny import save_tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEMAS = 1000
TOGETHER = 50
TOKENS_MAX = 1600
PAGES_EACH = TOKENS_MAX // 16
EOS = 2
VOCAB = 400  # the tokenizer has 342: the rest is padding, as many models have it


@dataclass(kw_only=True)
class Answer:
    guide: TokenGuide
    sampling: Sampling
    pages: tuple[int, ...]
    tokens: list[int] = field(default_factory=lambda: [1])
    """Behind the one that begins every text."""

    @property
    def is_over(self) -> bool:
        return self.tokens[-1] == EOS or len(self.tokens) == TOKENS_MAX

    def row(self) -> SampleRow:
        position = len(self.tokens)
        return SampleRow(self.sampling, position, (1,), self.tokens[1:], self.guide.mask())

    def take(self, token: int) -> None:
        self.tokens.append(token)
        if token != EOS:
            self.guide.advance(token)


class Model:
    """Four layers with the tokens of all answers in one batch."""

    def __init__(self, folder: Path) -> None:
        spec = open_model(str(folder)).spec
        (stage,) = cut((spec.layers,))
        form = WeightForm(torch.float32, prepare=LeavePlain())
        self._slice = load_slice(folder, spec, stage, form, lambda _done, _total: None).slice
        pages = TOGETHER * PAGES_EACH
        self._kv_pages = KvPages(spec, spec.layers, pages, torch.float32, "cpu")

    def logits(self, answers: Sequence[Answer]) -> Tensor:
        """Behind the newest token of each."""
        segments = [PagedSegment(each.pages, len(each.tokens) - 1, 1) for each in answers]
        newest = torch.tensor([each.tokens[-1] for each in answers], dtype=torch.int32)
        batch = PackedBatch.build(segments, "cpu")
        logits: Tensor = self._slice.logits(self._slice(newest, batch, self._kv_pages))
        return logits


@pytest.fixture(scope="module")
def tokenizer(sentencepiece_folder: Path) -> Tokenizer:
    return read_tokenizer(sentencepiece_folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny("llama2", folder, vocab_size=VOCAB, max_position_embeddings=TOKENS_MAX)
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield Model(folder)


def random_sampling(draw: random.Random) -> Sampling:
    return Sampling(
        temperature=draw.uniform(0.3, 2.0),
        top_k=draw.choice([0, 0, 5, 40]),
        top_p=draw.choice([1.0, 1.0, 0.9, 0.5]),
        repetition_penalty=draw.choice([1.0, 1.0, 1.2]),
        frequency_penalty=draw.choice([0.0, 0.0, 0.5]),
        seed=draw.getrandbits(53),
    )


@pytest.mark.parametrize("part", range(SCHEMAS // TOGETHER))
async def test_every_answer_is_what_its_schema_says(
    part: int, model: Model, tokenizer: Tokenizer
) -> None:
    draw = random.Random(part)
    guides = Guides(tokenizer, tokenizer.eos_ids, VOCAB)
    schemas = [random_schema(draw) for _ in range(TOGETHER)]
    answers = [
        Answer(
            guide=await guides.json_schema(schema),
            sampling=random_sampling(draw),
            pages=tuple(range(i * PAGES_EACH, (i + 1) * PAGES_EACH)),
        )
        for i, schema in enumerate(schemas)
    ]
    while running := [each for each in answers if not each.is_over]:
        found = choose(model.logits(running), [each.row() for each in running])
        for each, choice in zip(running, found, strict=True):
            each.take(choice.token)
    for schema, answer in zip(schemas, answers, strict=True):
        assert_fits(tokenizer, schema, answer)


def assert_fits(tokenizer: Tokenizer, schema: Any, answer: Answer) -> None:
    text = tokenizer.decode(answer.tokens)
    assert answer.tokens[-1] == EOS, f"{schema}: {text!r} does not end"
    jsonschema.validate(
        json.loads(text), schema, cls=jsonschema.Draft202012Validator,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )  # fmt: skip
