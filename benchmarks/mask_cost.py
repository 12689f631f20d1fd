"""What a mask costs: to compile a grammar, to compute the mask of each token, to send and apply it.

    python benchmarks/mask_cost.py [VOCABULARY]

On a byte-level BPE that is trained for it, on the sources of Python's standard library: 32,000
tokens of the kind that a model has, without one. Answers are drawn at random from what their
grammars allow, so their texts are stranger than a model's, and their masks dearer. Times are the
processor's, of the thread that does it: what else runs on the machine does not count.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgeserve.errors import Unprocessable
from edgeserve.frames.sampling import Sampling
from edgeserve.gateway.text.grammar import Guides, TokenGuide
from edgeserve.gateway.text.tokenizer import Tokenizer, read_tokenizer
from edgeserve.model.sampling import SampleRow, choose
from edgeserve.wire.codec import encode_for_last

VOCABULARY = 32_000
FILES = 600
ANSWERS = 40
TOKENS = 200
EOS = 0
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string", "maxLength": 60}, "zip": {"type": "string",
                           "pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}  # fmt: skip
GRAMMARS: dict[str, Callable[[Guides], Coroutine[Any, Any, TokenGuide]]] = {
    "a schema with strings, an enum and a pattern": lambda g: g.json_schema(PERSON),
    "any object": lambda g: g.json_object(),
    "`[a-z ]{1,400}`": lambda g: g.regex("[a-z ]{1,400}"),
    "an enum of 5,000 names": lambda g: g.json_schema({"enum": [f"name {i}" for i in range(5000)]}),
    "`(.*a.{20}){20}`": lambda g: g.regex("(.*a.{20}){20}"),
}


def trained(vocab: int) -> Tokenizer:
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py"))
    chosen = random.Random(0).sample(sources, min(FILES, len(sources)))
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train([str(each) for each in chosen], trainer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(str(Path(folder) / "tokenizer.json"))
        return read_tokenizer(Path(folder))


def timed_ms(work: Callable[[], Any]) -> float:
    start_s = time.thread_time()
    work()
    return 1e3 * (time.thread_time() - start_s)


def tokens_us(guide: TokenGuide, vocab: int, draw: random.Random) -> list[float]:
    """Of one answer: to follow each token, and to compute the next mask."""
    found = []
    for _ in range(TOKENS):
        bits = np.unpackbits(np.frombuffer(guide.mask(), dtype=np.uint8), bitorder="little")
        may = np.flatnonzero(bits[:vocab])
        token = int(may[draw.randrange(len(may))])
        if token == EOS:
            break
        try:
            found.append(1e3 * timed_ms(partial(guide.advance, token)))
        except Unprocessable:  # llguidance's bound on the work for one token
            break
    return found


def applied_us(vocab: int, allowed: bytes, sampling: Sampling) -> float:
    """What the last stage's choice of one token takes."""
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(0))
    row = SampleRow(sampling, 9, (), (), allowed)
    return 1e3 * statistics.median(timed_ms(lambda: choose(logits, [row])) for _ in range(200))


async def main() -> None:
    torch.set_num_threads(1)
    tokenizer = trained(int(sys.argv[1]) if len(sys.argv) > 1 else VOCABULARY)
    vocab = tokenizer.vocab_size
    guides = Guides(tokenizer, frozenset({EOS}), vocab)
    print(f"{vocab} tokens, read in {timed_ms(guides.prepare):.0f} ms at the start\n")
    print("| grammar | compile, ms | a token, us: median | p99 | most |")
    print("|---|--:|--:|--:|--:|")
    draw = random.Random(1)
    for name, make in GRAMMARS.items():
        compiled, spent = [], list[float]()
        for _ in range(ANSWERS):
            start_s = time.process_time()  # it is compiled in another thread
            guide = await make(guides)
            compiled.append(1e3 * (time.process_time() - start_s))
            spent += tokens_us(guide, vocab, draw)
        spent.sort()
        middle, p99 = statistics.median(spent), spent[int(0.99 * len(spent))]
        compile_ms = statistics.median(compiled)
        print(f"| {name} | {compile_ms:.1f} | {middle:.0f} | {p99:.0f} | {spent[-1]:.0f} |")
    guide = await guides.json_schema({"type": "string"})
    guide.advance(next(i for i in range(vocab) if tokenizer.token_bytes(i) == b'"'))
    print(f"\non the wire: {len(encode_for_last({1: guide.mask()}, {}))} bytes a token\n")
    print("| sampling on a CPU, us a token | free | masked |")
    print("|---|--:|--:|")
    for name, sampling in {
        "greedy": Sampling(), "temperature 1": Sampling(temperature=1.0),
        "temperature 1, top-p 0.9": Sampling(temperature=1.0, top_p=0.9),
    }.items():  # fmt: skip
        free, masked = (applied_us(vocab, allowed, sampling) for allowed in (b"", guide.mask()))
        print(f"| {name} | {free:.0f} | {masked:.0f} |")


if __name__ == "__main__":
    asyncio.run(main())
