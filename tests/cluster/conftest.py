"""Three workers for the whole session, tiny models saved once, gateways that a test may start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sentencepiece
import torch

from edgeserve.config import Address
from edgeserve.launch.processes import Child
from tests.cluster.processes import Cluster, announced, exit_codes, start_gateway, start_worker
from tests.model.tiny import save_tiny

StartGateway = Callable[..., Child]
SENTENCES = [
    "once upon a time there was a little girl who liked to play in the garden",
    "the dog and the cat went to the park, and they were happy all day long",
    "numbers: 1 2 3 10 100 1000; marks: ! ? . , : ; ' ( ) [ ] { } # @",
] * 4


@dataclass(kw_only=True)
class TinyModel:
    folder: str
    reference: Any
    """What transformers makes of it."""
    _said: dict[tuple[int, ...], list[int]] = field(default_factory=dict)

    def greedy(self, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
        """By transformers, each token from the whole text before it. Many tests want the same."""
        if len(self._said.get(prompt, ())) < new_tokens:
            self._said[prompt] = self._greedy(prompt, new_tokens)
        return self._said[prompt][:new_tokens]

    def _greedy(self, prompt: tuple[int, ...], new_tokens: int) -> list[int]:
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(new_tokens):
                ids.append(int(self.reference(torch.tensor([ids])).logits[0, -1].argmax()))
        return ids[len(prompt) :]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TinyModel]:
    made: dict[str, TinyModel] = {}

    def make(family: str) -> TinyModel:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = TinyModel(folder=str(folder), reference=save_tiny(family, folder))
        return made[family]

    torch.set_num_threads(1)
    return make


@pytest.fixture(scope="session")
def workers() -> Iterator[tuple[Address, ...]]:
    """No test may harm them: those that kill take `own_workers`."""
    children = [start_worker() for _ in range(3)]
    try:
        yield tuple(announced(child) for child in children)
    finally:
        assert exit_codes(children) == [0, 0, 0]


@pytest.fixture
def gateway() -> Iterator[StartGateway]:
    """Starts gateways that end with the test. Give it what `start_gateway` takes."""
    with _gateways() as start:
        yield start


@pytest.fixture(scope="module")
def module_gateway() -> Iterator[StartGateway]:
    """The same for gateways that end with the module."""
    with _gateways() as start:
        yield start


@contextmanager
def _gateways() -> Iterator[StartGateway]:
    children: list[Child] = []

    def start(workers: tuple[Address, ...], model: str, *flags: str) -> Child:
        children.append(start_gateway(workers, model, *flags))
        return children[-1]

    try:
        yield start
    finally:
        for child in children:
            child.stop()


@pytest.fixture(scope="module")
def breakable() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.heal()
        cluster.stop()


@pytest.fixture
def cluster(breakable: Cluster) -> Cluster:
    """Workers that this test may harm."""
    breakable.heal()
    return breakable


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """With a tokenizer, and a context long enough to be interrupted in."""
    folder = tmp_path_factory.mktemp("talker")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    reference = save_tiny("llama2", folder, vocab_size=340, max_position_embeddings=4096)
    return TinyModel(folder=str(folder), reference=reference)
