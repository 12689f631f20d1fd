"""What choosing a token costs a CPU stage: `python -m benchmarks.sampling_cost`.

One row of logits, from the head's output to what is sent back, for each way of sampling. Time is
that of the processor spent on it, so that a busy machine does not count; the ways take turns, so
that a warmer processor favours none.
"""

from __future__ import annotations

import statistics
import time

import torch

from edgeserve.frames.sampling import Sampling
from edgeserve.model.sampling import SampleRow, choose

VOCABS = (32_000, 128_256)
"""Llama 2's and Llama 3's."""
ROUNDS = 300
PROMPT_TOKENS, GENERATED_TOKENS = 500, 500
WAYS = {
    "greedy": Sampling(),
    "greedy, 1 most likely told": Sampling(top_logprobs=1),
    "greedy, 20 most likely told": Sampling(top_logprobs=20),
    "greedy, 300 biases": Sampling(logit_bias=tuple((3 * i, 0.5) for i in range(300))),
    "greedy, repetition penalty": Sampling(repetition_penalty=1.1),
    "greedy, frequency penalty": Sampling(frequency_penalty=0.5),
    "temperature": Sampling(temperature=1.0),
    "temperature, all of them": Sampling(
        temperature=1.0, repetition_penalty=1.1, frequency_penalty=0.5, top_logprobs=20
    ),
}


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    print(f"{'way':30}{''.join(f'{vocab:>12} tokens' for vocab in VOCABS)}  (median, us a row)")
    columns = [_median_us(vocab) for vocab in VOCABS]
    for way in WAYS:
        print(f"{way:30}{''.join(f'{column[way]:>19.0f}' for column in columns)}")


def _median_us(vocab: int) -> dict[str, float]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((1, vocab), generator=random)
    ids = torch.randint(vocab, (PROMPT_TOKENS + GENERATED_TOKENS,), generator=random).tolist()
    taken_us: dict[str, list[float]] = {way: [] for way in WAYS}
    for position in range(ROUNDS):
        for way, sampling in WAYS.items():
            row = SampleRow(sampling, position, ids[:PROMPT_TOKENS], ids[PROMPT_TOKENS:])
            start_s = time.thread_time()
            choose(logits, [row])
            taken_us[way].append(1e6 * (time.thread_time() - start_s))
    return {way: statistics.median(each) for way, each in taken_us.items()}


if __name__ == "__main__":
    main()
