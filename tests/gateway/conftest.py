"""Tiny tokenizers of each kind, and a gateway with a fake pipeline behind it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sentencepiece
import tokenizers
import uvicorn
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgeserve.clock import ManualClock, Timekeeper
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.edge.connection import Bounds, server_config
from edgeserve.gateway.edge.keys import Key, KeyRing, digest
from edgeserve.gateway.edge.quota import QuotaLimits
from edgeserve.gateway.text.tokenizer import open_tokenizer
from edgeserve.testing import FakeEngine

BOUNDS = Bounds(connections=100)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
CORPUS = [
    "once upon a time there was a little girl who liked to play in the garden",
    "the dog and the cat went to the park, and they were happy all day long",
    "numbers: 1 2 3 10 100 1000; marks: ! ? . , : ; ' ( ) [ ] { } # @",
] * 4
SPECIALS = ["<unk>", "<s>", "</s>"]


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Llama 3 and Qwen have it: pieces of bytes, the template in tokenizer.json."""
    folder = tmp_path_factory.mktemp("byte_level")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json", {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    )
    return folder


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Llama 2 has it: pieces of text, bytes for the rest, a space of its own at the start."""
    folder = tmp_path_factory.mktemp("llama")
    words = {word for line in CORPUS for word in line.split()}
    letters = sorted({letter for word in words for letter in word} | {SPACE})
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = [(SPACE, letter) for letter in letters if letter.isalpha()]
    merges += [("t", "h"), ("e", "r")]
    pieces += [left + right for left, right in merges]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": False},
    )
    return folder


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a Llama 2 folder without tokenizer.json, and with a token that was added to it."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=340,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "bos_token": {"content": "<s>"},
            "eos_token": {"content": "</s>"},
            "add_bos_token": True,
            "added_tokens_decoder": {
                "340": {"content": "<|turn|>", "special": True},
                "341": {"content": "<word>", "special": False},
            },
        },
    )
    return folder


@pytest.fixture(scope="session")
def folders(
    byte_level_folder: Path, llama_folder: Path, sentencepiece_folder: Path
) -> dict[str, Path]:
    return {
        "byte_level": byte_level_folder,
        "llama": llama_folder,
        "sentencepiece": sentencepiece_folder,
    }


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


@pytest.fixture
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock)


@pytest.fixture
def state(clock: ManualClock, engine: FakeEngine) -> AppState:
    """A model of 300 tokens whose first 256 are bytes and whose end of text is 2."""
    model = ModelFacts(
        name="fake", weights="real", context_tokens=64, vocab=300, eos_ids=frozenset({2})
    )
    return AppState(engine=engine, model=model, tokenizer=open_tokenizer(None, 300), clock=clock)


@pytest.fixture
def client_for() -> Callable[[AppState], httpx.AsyncClient]:
    def client_for(state: AppState) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(create_app(state))
        return httpx.AsyncClient(transport=transport, base_url="http://gateway")

    return client_for


@pytest.fixture
def client(
    state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]
) -> httpx.AsyncClient:
    return client_for(state)


@pytest.fixture
def serving() -> Callable[..., AbstractAsyncContextManager[str]]:
    """Serves on a free port of this machine, for what needs a real connection; gives its URL."""

    @asynccontextmanager
    async def serving(state: AppState, bounds: Bounds = BOUNDS) -> AsyncIterator[str]:
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(create_app(state), bounds))
        served = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await served

    return serving


def key_ring(
    clock: Timekeeper, keys: Mapping[str, str], limits: QuotaLimits | None = None
) -> KeyRing:
    """Secrets by name, all with the same limits."""
    limits = limits or QuotaLimits()
    return KeyRing(
        [Key(name=name, digest=digest(secret), limits=limits) for name, secret in keys.items()],
        clock,
    )


def write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))
