"""Chooses the next token of each row of logits.

What a row gets depends on that row alone, never on the batch. Randomness is one uniform number per
token from a counter-based generator: the key is the request's seed, the counter the token's
position. A replay, another batch or another worker draws the same number.

    N rows, V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.random import Philox
from torch import Tensor

from edgeserve.errors import EdgeserveError
from edgeserve.families.sampling import Sampling

TEMPERATURE_MIN = 1e-4  # below it logits overflow fp32, and the choice has long been greedy


@dataclass(frozen=True)
class SampleRow:
    """How one row's token is chosen."""

    sampling: Sampling
    position: int
    """Of the token that is chosen."""
    history: Sequence[int]
    """The sequence's tokens so far; needed only if `sampling.needs_history`."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    token: int
    logprob: float
    """Natural logarithm, of the unfiltered distribution at temperature 1."""


def choose(logits_NV: Tensor, rows: Sequence[SampleRow]) -> list[Choice]:
    """One token for each row. The device hands all results over in one copy.

    Raises EdgeserveError if the logits are not numbers.
    """
    chosen_N2 = most_likely(logits_NV)
    draw(chosen_N2, logits_NV, rows)
    return choices(chosen_N2)


def most_likely(logits_NV: Tensor) -> Tensor:
    """Token and log-probability of each row, [N, 2] in fp64: token ids fit it, so both results
    travel as one.
    """
    return _with_logprobs(logits_NV, logits_NV.argmax(dim=-1))


def draw(chosen_N2: Tensor, logits_NV: Tensor, rows: Sequence[SampleRow]) -> None:
    """Chooses anew for the rows that do not want the most likely token. On a GPU nothing here waits
    for it: the results are read when the frame is done.
    """
    for index, row in enumerate(rows):
        if row.sampling.temperature > 0 or row.sampling.needs_history:
            logits_1V = logits_NV[index : index + 1]
            token_1 = _choose_one(logits_1V[0], row)[None]
            chosen_N2[index] = _with_logprobs(logits_1V, token_1)[0]


def choices(chosen_N2: Tensor) -> list[Choice]:
    """Raises EdgeserveError if the logits were not numbers."""
    return [_checked(int(token), logprob) for token, logprob in chosen_N2.tolist()]


def filter_logits(logits_V: Tensor, sampling: Sampling, history: Sequence[int]) -> Tensor:
    """Penalised, tempered, and minus infinity for what may not be chosen; as in transformers."""
    if sampling.needs_history:
        logits_V = _penalise(logits_V, sampling.repetition_penalty, history)
    if sampling.temperature > 0:
        logits_V = logits_V / max(sampling.temperature, TEMPERATURE_MIN)
    if 0 < sampling.top_k < len(logits_V):
        least = logits_V.topk(sampling.top_k).values[-1]  # all that equal it stay, too
        logits_V = logits_V.masked_fill(logits_V < least, -math.inf)
    if sampling.top_p < 1:
        logits_V = _top_p(logits_V, sampling.top_p)
    if sampling.min_p > 0:
        least = logits_V.max() + math.log(sampling.min_p)
        logits_V = logits_V.masked_fill(logits_V < least, -math.inf)
    return logits_V


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1), the same wherever and whenever it is asked for."""
    bits = int(Philox(key=seed, counter=position).random_raw())
    return (bits >> 11) / 2**53  # the bits that a double can hold


def _with_logprobs(logits_NV: Tensor, tokens_N: Tensor) -> Tensor:
    chosen_N1 = logits_NV.gather(-1, tokens_N[:, None])
    logprobs_N = chosen_N1[:, 0].double() - logits_NV.logsumexp(dim=-1).double()
    return torch.stack((tokens_N.double(), logprobs_N), dim=-1)


def _choose_one(logits_V: Tensor, row: SampleRow) -> Tensor:
    """The first token up to which the probabilities sum to more than the uniform number."""
    logits_V = filter_logits(logits_V, row.sampling, row.history)
    if row.sampling.temperature == 0:
        return logits_V.argmax()
    cumulative_V = logits_V.double().softmax(dim=-1).cumsum(dim=-1)
    cumulative_V = cumulative_V / cumulative_V[-1]  # ends at 1, which no draw reaches
    # Filled in, not copied: a copy from ordinary memory would wait for all that the GPU has to do.
    drawn_1 = cumulative_V.new_full((1,), uniform(row.sampling.seed, row.position))
    token = torch.searchsorted(cumulative_V, drawn_1, right=True)
    # Only NaN gets beyond the end; it is reported with the results, not by a crashed device.
    return token[0].clamp(max=len(logits_V) - 1)


def _penalise(logits_V: Tensor, penalty: float, history: Sequence[int]) -> Tensor:
    seen = torch.tensor(history, dtype=torch.int64, pin_memory=logits_V.is_cuda)
    seen = seen.to(logits_V.device, non_blocking=True)
    found = logits_V.gather(0, seen)
    return logits_V.scatter(0, seen, torch.where(found < 0, found * penalty, found / penalty))


def _top_p(logits_V: Tensor, top_p: float) -> Tensor:
    """Drops the least likely tokens that together are at most 1 - top_p; the likeliest stays."""
    probabilities_V = logits_V.softmax(dim=-1)
    # Tokens as rare as this are dropped even all together, so only the others need sorting: of a
    # model that knows what it says, a few hundred. (The 2 is for rounding: some must be left.) A
    # GPU sorts all in 0.1 ms, and to ask it how many they are would wait for all before.
    rare_V = 2 * len(logits_V) * probabilities_V < 1 - top_p
    if logits_V.is_cuda:
        rare_V = torch.zeros_like(rare_V)
        ascending, others = probabilities_V.sort(stable=True)
    else:
        few = (~rare_V).nonzero()[:, 0]
        ascending, order = probabilities_V[few].sort()
        others = few[order]
    is_dropped = (probabilities_V * rare_V).sum() + ascending.cumsum(dim=0) <= 1 - top_p
    is_dropped[-1] = False
    return logits_V.masked_fill(rare_V.scatter(0, others, is_dropped), -math.inf)


def _checked(token: int, logprob: float) -> Choice:
    if math.isfinite(logprob):
        return Choice(token=token, logprob=logprob)
    raise EdgeserveError(
        "the model computed logits that are not numbers (NaN or infinite), so no token can be "
        "chosen; its numbers may be too large for this dtype: try --dtype bf16 or fp32, and check "
        "the weights"
    )
