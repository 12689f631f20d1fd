"""A row that allows some tokens only: as if the model had never heard of the others."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from edgeserve.frames.sampling import Sampling
from edgeserve.model.sampling import SampleRow, choose, filter_logits

VOCAB = 101
SAMPLINGS = [
    Sampling(),
    Sampling(temperature=1.5, seed=1),
    Sampling(temperature=1.0, top_k=3, seed=2),
    Sampling(temperature=2.0, top_p=0.6, seed=3),
    Sampling(temperature=2.0, min_p=0.2, seed=4),
    Sampling(repetition_penalty=1.8),
    Sampling(temperature=0.8, frequency_penalty=1.1, presence_penalty=-0.5, seed=5),
    Sampling(temperature=1.0, logit_bias=((7, 5.0), (20, -9.0)), seed=6),
]


def mask(tokens: Iterable[int], size: int = (VOCAB + 7) // 8) -> bytes:
    return sum(1 << token for token in tokens).to_bytes(size, "little")


def logits_of(seed: int) -> Tensor:
    return 3 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed))


def row(sampling: Sampling, allowed: bytes, position: int = 9) -> SampleRow:
    return SampleRow(sampling, position, (5, 7), (20, 7, 20), allowed)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(len(SAMPLINGS)))
@pytest.mark.parametrize("count", [1, 2, 60])
def test_a_mask_is_what_logits_of_minus_infinity_are(sampling: Sampling, count: int) -> None:
    """Bit by bit, in plain Python, before all else."""
    for seed in range(8):
        may = random.Random(seed).sample(range(VOCAB), count)
        logits = logits_of(seed)
        ruled_out = torch.tensor([[
            number if token in may else -math.inf for token, number in enumerate(logits[0].tolist())
        ]])  # fmt: skip
        assert torch.equal(
            filter_logits(logits[0], row(sampling, mask(may))),
            filter_logits(ruled_out[0], row(sampling, b"")),
        )
        [ours] = choose(logits, [row(sampling, mask(may))])
        [theirs] = choose(ruled_out, [row(sampling, b"")])
        assert ours.token == theirs.token
        assert ours.token in may


def test_every_bit_is_a_token_the_lowest_of_each_byte_first() -> None:
    for token in range(VOCAB):
        [choice] = choose(logits_of(token), [row(Sampling(), mask([token]))])
        assert choice.token == token


def test_tokens_beyond_the_end_of_a_mask_are_not_allowed() -> None:
    """A model may have more rows than its tokenizer has tokens; a mask may have more bits."""
    logits = logits_of(1)
    logits[0, 90] = 99.0
    assert choose(logits, [row(Sampling(), b"\x21")])[0].token in {0, 5}
    everything = mask(range(VOCAB)) + b"\xff" * 9
    assert choose(logits, [row(Sampling(), everything)])[0].token == 90


def test_logprobs_are_those_of_all_tokens() -> None:
    logits = logits_of(2)
    [choice] = choose(logits, [row(Sampling(top_logprobs=3), mask([4]))])
    expected = logits[0].double().log_softmax(-1)
    assert choice.logprob == pytest.approx(float(expected[4]), abs=1e-5)
    likeliest = expected.topk(3)
    assert [token for token, _ in choice.top] == likeliest.indices.tolist()
    assert [p for _, p in choice.top] == pytest.approx(likeliest.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=range(len(SAMPLINGS)))
def test_a_row_beside_a_masked_one_gets_what_it_gets_alone(sampling: Sampling) -> None:
    logits = torch.cat([logits_of(seed) for seed in range(4)])
    free = [row(sampling, b"", position) for position in range(4)]
    held = [row(sampling, mask([3, 50]), position) for position in range(4)]
    alone = [choose(logits[i : i + 1], [free[i]])[0] for i in range(4)]
    mixed = choose(logits, [free[0], held[1], free[2], held[3]])
    assert [mixed[0], mixed[2]] == [alone[0], alone[2]]
    assert {mixed[1].token, mixed[3].token} <= {3, 50}


def test_the_likeliest_allowed_token_is_the_greedy_one() -> None:
    logits = logits_of(5)
    order = logits[0].argsort(descending=True).tolist()
    [choice] = choose(logits, [row(Sampling(), mask(order[10:]))])
    assert choice.token == order[10]
