"""Makes the demo model: a tiny Llama and its tokenizer, from texts that scripts write.

A serving system that needs a download before it says its first word is hard to try. So the
package carries a model of a few megabytes in the very format of big ones (a Hugging Face Llama
folder), and this script is where every byte of that folder comes from: `demo_text.py` writes the
stories, `demo_chat.py` the conversations with tools, `demo_chat.jinja` makes prompts of these, and
`demo_llama.py` is the model.

    python scripts/train_demo.py --steps 1900 --seed 0 --out edgeserve/demo
"""

import argparse
import io
import json
import math
import random
import re
import string
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import sentencepiece
import torch
from demo_chat import Chat, chats  # type: ignore[import-not-found]  # beside this script
from demo_llama import (  # type: ignore[import-not-found]
    CONTEXT,
    FFN,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    NORM_EPS,
    ROPE_THETA,
    VOCAB,
    DemoModel,
)
from demo_text import stories  # type: ignore[import-not-found]  # beside this script
from jinja2 import Environment, Template
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

BOS, EOS = 1, 2
SHARPNESS = (
    2.5  # the head's factor: at temperature 1, most clients' choice, a copied name stays whole
)
ASSISTANT = "Assistant:\n"  # after this, a chat's tokens are the model's own
IGNORED = -100  # where another speaks, there is nothing to foretell

CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": NORM_EPS,
    "rope_theta": ROPE_THETA,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "torch_dtype": "float16",
    "use_cache": True,
}
CALL_TAGS = ("<tool_call>", "</tool_call>")
# Names of functions and parameters stand behind a sign or a line break there, as in the calls: so
# they are the same tokens in both, and the model need only copy them.
TEMPLATE_FILE = Path(__file__).parent / "demo_chat.jinja"
# Without a tokenizer_class, spaces are put where sentencepiece puts them, and so the training does:
# behind <s> and </s>, but not behind the tags of calls.
TOKENIZER_CONFIG: dict[str, object] = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "legacy": True,
    "model_max_length": CONTEXT,
    "clean_up_tokenization_spaces": False,
}
GENERATION_CONFIG: dict[str, object] = {
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "max_length": CONTEXT,
}

STORIES, CHATS, EASY_CHATS = 20_000, 40_000, 12_000  # more than the steps take: few are seen twice
TOKENIZER_STORIES, TOKENIZER_CHATS = 4_000, 2_000
HELD_OUT_TEXTS, HELD_OUT_SEED = 300, 1_000_003  # far from any seed one would train with
TOKENS_PER_STEP = 2048
PEAK_RATE, LAST_RATE, WARM_UP = 3e-3, 1e-4, 0.03
COSINE_STEPS = 2800
COOLING = ((0, 1.0), (1200, 1.0), (1300, 2 / 3), (1550, 17 / 33), (1900, 0.0))
MODEL_CARD = """# The demo model

A Llama of {million:.2f} million parameters ({megabytes:.1f} MB in fp16) with its own tokenizer of
1536 pieces. It exists so that edgeserve can be tried, tested and measured without a download. It
writes simple English stories, chats a little, and calls the tools that it is offered.

## How it was made

    python scripts/train_demo.py --steps {steps} --seed {seed} --out edgeserve/demo

`scripts/demo_text.py` writes the stories, a template grammar written for this purpose, and
`scripts/demo_chat.py` the conversations with tools, most of whose names and values are made up;
there is no other training data. The model is plain torch, in `scripts/demo_llama.py`.

| | |
|---|---|
| shape | 6 layers, hidden 192, 6 query heads, 2 key/value heads, feed-forward 512 |
| text | 20 000 stories and other texts, 52 000 conversations, in windows of 128 to 2048 tokens |
| training | {steps} steps of 2048 tokens ({tokens:.1f} million), Muon and AdamW, cosine, bf16 |
| time | {minutes:.0f} minutes on one busy CPU core |
| last training loss | {train_loss:.3f} nats per token |
| loss on stories not trained on | {stories_loss:.3f} nats per token |
| loss on answers in conversations not trained on | {chats_loss:.3f} nats per token |

The head is multiplied by 4 when the folder is written, after the losses were taken: temperature 1
is what 0.25 would be, so that a client that sets none gets steady copies.

The same command gives the same text, tokenizer and order of batches. The weights agree to the last
bit only on the same processor and torch version, as sums are taken in another order elsewhere.

## Prompts

Beginnings of stories ("Once upon a time", "The little fox"), questions ("Why is the sky blue?"),
and chats as `chat_template.jinja` writes them: the tools, each as its name, parameters and
descriptions, then `System:`, `User:`, `Assistant:` and `Tool:` with what was said. A call is

    <tool_call>
    {{"name": "get_weather", "arguments": {{"city": "Paris"}}}}
    </tool_call>

## Honest limits

* It knows some hundred words and about twenty plots, and tells them again and again. A low loss
  means that the grammar behind the text is simple, not that the model is clever.
* Calls are copied, not understood. It looks for the tool whose name or description shares words
  with the question, and copies arguments from it word for word. That works for one to four tools
  with at most three parameters that are strings or numbers, where the question says each value as
  the call needs it. It does not turn "three" into 3, "tomorrow" into a date or "here" into a city,
  writes no lists or objects, and calls a tool for nearly every question that is not small talk.
* Of 20 typical first questions, each with one to three tools, it answers 18 with the right call
  (`tests/cluster/test_demo_tools.py`). Long names that it has not seen are at times copied wrongly.
* An answer after a call is a fixed sentence around what the tool said. It plans no second call.
* System prompts are read, but not followed.
* Facts are those of forty short answers. To most other questions it says that it does not know.
* English only. Other scripts pass through the tokenizer byte by byte, and the model has never
  seen them. It has never seen code, and calculates nothing.
* It reads at most 2048 tokens; few of its texts were longer than 500.
* Its quality says nothing about edgeserve's: use a real model to judge answers, this one to judge
  plumbing.
"""
Tokenizer = sentencepiece.SentencePieceProcessor
Batch = tuple[Tensor, Tensor]
T = TypeVar("T")
PROMPTS = ("Once upon a time", "The little fox", "What is a pipeline?")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts as one long row of tokens, and where each of them starts."""

    tokens: Tensor
    learned: Tensor
    """Whether each token is one that the model has to say: of a chat, the assistant's alone."""
    starts: Tensor


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training."""

    until: float
    """The step that is the first of the next one."""
    corpora: Mapping[str, int]
    """Weights."""
    windows: Mapping[int, int]
    """Weights. Short ones first: copying is learned from what is near."""


PHASES = (
    Phase(until=700, corpora={"easy": 65, "stories": 35}, windows={128: 70, 256: 30}),
    Phase(
        until=math.inf,
        corpora={"easy": 5, "chats": 57, "stories": 38},
        windows={256: 50, 512: 32, 1024: 13, 2048: 5},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training run came to; losses in nats per token."""

    seed: int
    steps: int
    minutes: float
    train_loss: float
    stories_loss: float
    chats_loss: float
    """The last two on texts that were not trained on."""


def main() -> None:
    """Trains, writes the folder, and shows what the model says."""
    flags = parsed_flags()
    torch.manual_seed(flags.seed)
    torch.set_num_threads(flags.threads)
    tokenizer_bytes = trained_tokenizer(flags.seed)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    corpora = corpora_of(tokenizer, flags.seed)
    for name, corpus in corpora.items():
        print(f"{name}: {len(corpus.starts)} texts, {len(corpus.tokens)} tokens", flush=True)
    model = DemoModel()
    started = time.monotonic()
    train_loss = train(model, corpora, flags)
    run = Run(
        seed=flags.seed,
        steps=flags.steps,
        minutes=(time.monotonic() - started) / 60,
        train_loss=train_loss,
        stories_loss=held_out_loss(
            model, stories_corpus(tokenizer, HELD_OUT_TEXTS, flags.seed + HELD_OUT_SEED)
        ),
        chats_loss=held_out_loss(
            model, chats_corpus(tokenizer, chats(HELD_OUT_TEXTS, flags.seed + HELD_OUT_SEED))
        ),
    )
    print(run)
    write_folder(flags.out, model, tokenizer_bytes)
    (flags.out / "MODEL_CARD.md").write_text(model_card(model, run))
    for prompt in PROMPTS:
        print(repr(continuation(model, tokenizer, prompt)))


def parsed_flags() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--steps", type=int, required=True, help="up to 1900, when the rate is 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("edgeserve/demo"))
    return parser.parse_args()


# ------------------------------------------------------------------ text to tokens


def trained_tokenizer(seed: int) -> bytes:
    """A byte-pair tokenizer as Llama-2 has it: any text in, the very same text out.

    A capital is a piece by itself, so that a name is the same pieces after a space and after a
    quotation mark: what a question says can then be copied into a call.
    """
    texts = [*stories(TOKENIZER_STORIES, seed), *map(as_text, chats(TOKENIZER_CHATS, seed))]
    lines = re.sub(r"</?(s|tool_call)>", "", "\n".join(texts)).split("\n")
    apart = (re.sub(r"([A-Z])", r"\t\1\t", line) for line in lines)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=apart,
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB,
        pretokenization_delimiter="\t",
        required_chars=string.printable.strip(),
        user_defined_symbols=list(CALL_TAGS),
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        max_sentence_length=20_000,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=2,
        minloglevel=2,
    )
    return model.getvalue()


def corpora_of(tokenizer: Tokenizer, seed: int) -> dict[str, Corpus]:
    """All that is trained on."""
    return {
        "stories": stories_corpus(tokenizer, STORIES, seed),
        "chats": chats_corpus(tokenizer, chats(CHATS, seed)),
        "easy": chats_corpus(tokenizer, chats(EASY_CHATS, seed, is_easy=True)),
    }


def stories_corpus(tokenizer: Tokenizer, count: int, seed: int) -> Corpus:
    """Stories between <s> and </s>, so that the model knows how to begin and when to stop."""
    encoded = tokenizer.encode(list(stories(count, seed)), add_bos=True, add_eos=True)
    return joined([(ids, [True] * len(ids)) for ids in encoded])


def chats_corpus(tokenizer: Tokenizer, all_chats: Iterable[Chat]) -> Corpus:
    """Conversations as the chat template writes them."""
    return joined([chat_tokens(tokenizer, as_text(chat)) for chat in all_chats])


@cache
def chat_template() -> Template:
    """Compiled as transformers does it."""
    jinja = Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  # a prompt is no HTML
    jinja.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return jinja.from_string(TEMPLATE_FILE.read_text())


def as_text(chat: Chat) -> str:
    """The prompt after which the model would go on, and that it did."""
    special = {name: TOKENIZER_CONFIG[name] for name in ("bos_token", "eos_token")}
    return chat_template().render(messages=chat.messages, tools=chat.tools, **special)


def chat_tokens(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them the assistant said.

    </s> ends what the assistant says. What stands between two such marks is encoded by itself.
    """
    ids, learned = [BOS], [False]
    for part in text.removeprefix("<s>").rstrip().removesuffix("</s>").split("</s>"):
        heard = tokenizer.encode(part[: part.rindex(ASSISTANT) + len(ASSISTANT)])
        both = [*tokenizer.encode(part), EOS]
        ids += both
        learned += [i >= len(heard) for i in range(len(both))]
    return ids, learned


def joined(texts: Sequence[tuple[list[int], list[bool]]]) -> Corpus:
    """One after the other."""
    lengths = torch.tensor([len(ids) for ids, _ in texts])
    return Corpus(
        tokens=torch.tensor([token for ids, _ in texts for token in ids]),
        learned=torch.tensor([each for _, learned in texts for each in learned]),
        starts=lengths.cumsum(0) - lengths,
    )


def batch(corpus: Corpus, rows: int, window: int, generator: torch.Generator) -> Batch:
    """Rows of window + 1 tokens. Each begins with a text: position 0 always holds <s>."""
    fitting = corpus.starts[corpus.starts < len(corpus.tokens) - window - 1]
    picked = fitting[torch.randint(len(fitting), (rows, 1), generator=generator)]
    where = picked + torch.arange(window + 1)
    return corpus.tokens[where], corpus.learned[where]


# ------------------------------------------------------------------ training


def train(model: DemoModel, corpora: Mapping[str, Corpus], flags: argparse.Namespace) -> float:
    """Takes the steps; returns the last smooth loss."""
    generator = torch.Generator().manual_seed(flags.seed)
    choices = random.Random(flags.seed)
    optimizers = optimizers_of(model)
    smooth = math.log(VOCAB)
    for step in range(flags.steps):
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = learning_rate(step)
        phase = next(each for each in PHASES if step < each.until)
        corpus = corpora[drawn(choices, phase.corpora)]
        window = drawn(choices, phase.windows)
        loss = loss_of(model, batch(corpus, TOKENS_PER_STEP // window, window, generator))
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        smooth += (loss.item() - smooth) / min(step + 1, 50)
        if (step + 1) % 50 == 0:
            print(f"step {step + 1:5d} of {flags.steps}  loss {smooth:.3f}", flush=True)
    return smooth


def drawn(choices: random.Random, weights: Mapping[T, int]) -> T:
    """One of the keys."""
    return choices.choices([*weights], [*weights.values()])[0]


def optimizers_of(model: DemoModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, which learns the same from fewer tokens;
    AdamW for the rest. Norms are scales and must not decay towards zero.
    """
    inner = [p for p in model.model.layers.parameters() if p.dim() > 1]
    outer = [model.model.embed_tokens.weight, model.lm_head.weight]
    norms = [p for p in model.parameters() if p.dim() == 1]
    return [
        torch.optim.Muon(inner, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": outer, "weight_decay": 0.1},
                {"params": norms, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.95),
        ),
    ]


def learning_rate(step: int) -> float:
    """A short warm-up and most of a long half cosine, which is cut off by lines down to nothing."""
    done = step / COSINE_STEPS
    if done < WARM_UP:
        return cooling(step) * PEAK_RATE * (done + 0.001) / WARM_UP
    cosine = 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
    return cooling(step) * (LAST_RATE + (PEAK_RATE - LAST_RATE) * cosine)


def cooling(step: int) -> float:
    """A share of the rate, between the two points of `COOLING` that are around the step."""
    for (start, high), (end, low) in pairwise(COOLING):
        if step < end:
            return high + (low - high) * (step - start) / (end - start)
    return 0.0


def loss_of(model: DemoModel, rows: Batch) -> Tensor:
    """Cross-entropy per token; products in bf16, which a recent CPU does several times faster."""
    tokens, learned = rows
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens[:, :-1])
    wanted = tokens[:, 1:].masked_fill(~learned[:, 1:], IGNORED)
    return F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def held_out_loss(model: DemoModel, corpus: Corpus) -> float:
    """The loss on stories that were not trained on, in windows of 512."""
    generator = torch.Generator().manual_seed(0)
    rows = [batch(corpus, 8, 512, generator) for _ in range(8)]
    return sum(loss_of(model, each).item() for each in rows) / len(rows)


@torch.no_grad()
def continuation(
    model: DemoModel,
    tokenizer: sentencepiece.SentencePieceProcessor,
    prompt: str,
) -> str:
    """The likeliest continuation, computed the slow and simple way: no cache."""
    tokens: list[int] = tokenizer.encode(prompt, add_bos=True)
    while len(tokens) < 100 and tokens[-1] != EOS:
        tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    return str(tokenizer.decode(tokens))


# ------------------------------------------------------------------ the folder


def write_folder(out: Path, model: DemoModel, tokenizer_bytes: bytes) -> None:
    """A Hugging Face model folder."""
    out.mkdir(parents=True, exist_ok=True)
    scaled = {**model.state_dict(), "lm_head.weight": SHARPNESS * model.lm_head.weight.detach()}
    weights = {name: w.to(torch.float16).contiguous() for name, w in scaled.items()}
    (out / "model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))
    (out / "tokenizer.model").write_bytes(tokenizer_bytes)
    write_json(out / "config.json", CONFIG)
    write_json(out / "generation_config.json", GENERATION_CONFIG)
    write_json(out / "tokenizer_config.json", TOKENIZER_CONFIG)
    (out / "chat_template.jinja").write_text(TEMPLATE_FILE.read_text())


def write_json(path: Path, content: dict[str, object]) -> None:
    """JSON as people like to read it."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def model_card(model: DemoModel, run: Run) -> str:
    """What one should know before believing this model."""
    count = sum(p.numel() for p in model.parameters())
    return MODEL_CARD.format(
        million=count / 1e6,
        megabytes=2 * count / 1e6,
        tokens=run.steps * TOKENS_PER_STEP / 1e6,
        **vars(run),
    )


if __name__ == "__main__":
    main()
