"""transformers as a system under test: `generate` on a random model of the same sizes.

A process of its own, `python -m benchmarks.transformers_generate --threads 2 --parts decode`, so
that its memory goes when it ends; the figures are the last line of its output. Greedy, no stop, no
text, no HTTP: it is given what our side has to do as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Collection
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from benchmarks.measures import (
    DECODE_BATCHES,
    DECODE_STEPS,
    MODEL,
    PREFILL_TOKENS,
    PROMPT_TOKENS,
    Figures,
    decode,
    prefill,
)
from edgeserve.families.shapes import SHAPES

WARM_UP_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--parts", required=True, help="decode, prefill or both, with a comma")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(json.dumps(measure(random_model(), options.parts.split(","))))


def random_model() -> Any:
    """Made in bf16 at once: to draw it in fp32 would take twice its memory, and a minute."""
    spec = SHAPES[MODEL]
    config = LlamaConfig(
        num_hidden_layers=spec.layers, hidden_size=spec.hidden, intermediate_size=spec.ffn_hidden,
        num_attention_heads=spec.heads, num_key_value_heads=spec.kv_heads, vocab_size=spec.vocab,
        max_position_embeddings=spec.context_tokens, rms_norm_eps=spec.norm_eps,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config).eval()
    model.generation_config.eos_token_id = None  # no stop, and nothing that watches for one
    return model


def measure(model: Any, parts: Collection[str]) -> Figures:
    figures: Figures = {}
    if "decode" in parts:
        for batch in DECODE_BATCHES:
            _token_s(model, batch, PROMPT_TOKENS, WARM_UP_STEPS)
            token_s = _token_s(model, batch, PROMPT_TOKENS, DECODE_STEPS + 1)
            figures[decode(batch)] = batch * DECODE_STEPS / (token_s[-1] - token_s[0])
    if "prefill" in parts:
        _token_s(model, 1, PREFILL_TOKENS, 1)
        figures[prefill()] = PREFILL_TOKENS / _token_s(model, 1, PREFILL_TOKENS, 1)[0]
    return figures


def _token_s(model: Any, batch: int, prompt: int, new_tokens: int) -> list[float]:
    """When each step was done, in seconds since the call."""
    ids = torch.randint(3, model.config.vocab_size, (batch, prompt))
    instants = _Instants([])
    start_s = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([instants]),
        )
    return [at_s - start_s for at_s in instants.at_s]


class _Instants(StoppingCriteria):  # type: ignore[misc]  # transformers is not followed
    """Never stops; is asked after each step, and notes when."""

    def __init__(self, at_s: list[float]) -> None:
        self.at_s = at_s

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        self.at_s.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


if __name__ == "__main__":
    main()
