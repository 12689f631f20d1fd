"""Chooses the next token of each row of logits, and says which others were likely.

What a row gets depends on that row alone, never on the batch. Randomness is one uniform number per
token from a counter-based generator: the key is the request's seed, the counter the token's
position. A replay, another batch or another worker draws the same number.

    N rows, V vocabulary, K tokens of each row,
    P pairs of a token and its log-probability, side by side in fp64, which token ids fit: the
      chosen token, and behind it the most likely ones if any row wants them told
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

from edgeserve.errors import EdgeserveError
from edgeserve.families.sampling import TOP_LOGPROBS_MAX, Sampling

LOGITS_BYTES = 16 * 2**20
"""Of fp32 logits that are taken at a time where it is not all of a frame's: 32 rows of a vocabulary
of 128,000 tokens, for which the head is read once."""
TEMPERATURE_MIN = 1e-4  # below it logits overflow fp32, and the choice has long been greedy


@dataclass(frozen=True)
class SampleRow:
    """How one row's token is chosen."""

    sampling: Sampling
    position: int
    """Of the token that is chosen."""
    prompt: Sequence[int]
    """Token ids; needed only if `sampling.needs_history`."""
    generated: Sequence[int] = ()
    """All behind the prompt so far, if the prompt is needed."""
    allowed: bytes = b""
    """A bit for each token that may be chosen, the lowest of each byte first; empty if any may."""

    @property
    def takes_most_likely(self) -> bool:
        """Whether the choice is the most likely token of the logits as the model has them."""
        return self.sampling.takes_most_likely and not self.allowed


@dataclass(frozen=True, kw_only=True)
class Choice:
    token: int
    logprob: float
    """Natural logarithm, of the unfiltered distribution at temperature 1."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens of that distribution and their log-probabilities, in this order; as
    many as were asked for, as far as they are possible at all.
    """


def choose(logits_NV: Tensor, rows: Sequence[SampleRow]) -> list[Choice]:
    """One token for each row. The device hands all results over in one copy.

    Raises EdgeserveError if the logits are not numbers.
    """
    return choices(sample(most_likely(logits_NV), logits_NV, rows), rows)


def most_likely(logits_NV: Tensor) -> Tensor:
    """Token and log-probability of each row, [N, 2]."""
    return with_logprobs(logits_NV, logits_NV.argmax(dim=-1, keepdim=True))


def sample(chosen_N2: Tensor, logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """What the rows get, [N, 2 P], from what `most_likely` gave; it is overwritten where a row
    wants another token. On a GPU nothing here waits for it: the results are read when the frame is
    done.
    """
    for index, row in enumerate(rows):
        if not row.takes_most_likely:
            logits_1V = logits_NV[index : index + 1]
            token_11 = _choose_one(logits_1V[0], row).view(1, 1)
            chosen_N2[index] = with_logprobs(logits_1V, token_11)[0]
    if any(row.sampling.top_logprobs for row in rows):
        return _with_top(chosen_N2, logits_NV, rows)
    return chosen_N2


def choices(results_N2P: Tensor, rows: Sequence[SampleRow]) -> list[Choice]:
    """Raises EdgeserveError if the logits were not numbers."""
    return [
        _choice(numbers, row.sampling.top_logprobs)
        for numbers, row in zip(results_N2P.tolist(), rows, strict=True)
    ]


def with_logprobs(logits_NV: Tensor, tokens_NK: Tensor) -> Tensor:
    """K pairs for each row, [N, 2 K]."""
    found_NK = logits_NV.gather(-1, tokens_NK).double()
    logprobs_NK = found_NK - _log_sums(logits_NV).double()
    return torch.stack((tokens_NK.double(), logprobs_NK), dim=-1).flatten(1)


def rows_at_a_time(vocab: int) -> int:
    """Whose logits, or what is as large, may be there beside all others."""
    return max(1, LOGITS_BYTES // (4 * vocab))


def _log_sums(logits_NV: Tensor) -> Tensor:
    """Logarithms of the sums of exponentials, [N, 1]. The exponentials are as large as the logits,
    so they are there for a few rows at a time.
    """
    blocks = torch.split(logits_NV, rows_at_a_time(logits_NV.shape[1]))
    sums = [each_BV.logsumexp(dim=-1, keepdim=True) for each_BV in blocks]
    return sums[0] if len(sums) == 1 else torch.cat(sums)


def pairs(numbers: Sequence[float]) -> list[tuple[int, float]]:
    """Tokens and log-probabilities of one row. Raises EdgeserveError if they are not numbers, as
    the first shows.
    """
    if not math.isfinite(numbers[1]):
        raise EdgeserveError(
            "the model computed logits that are not numbers (NaN or infinite), so no token can be "
            "chosen; its numbers may be too large for this dtype: try --dtype bf16 or fp32, and "
            "check the weights"
        )
    return list(zip(map(int, numbers[::2]), numbers[1::2], strict=True))


def likeliest(top: list[tuple[int, float]], count: int) -> tuple[tuple[int, float], ...]:
    """The first `count` of the most likely tokens, as far as they are possible at all. Equally
    likely ones come in the order of their ids, as greedy takes them, in whatever order a device has
    them.
    """
    ordered = sorted(top, key=lambda pair: (-pair[1], pair[0]))
    return tuple(pair for pair in ordered[:count] if pair[1] > -math.inf)


def on_device_of(tensor: Tensor, numbers_K: Tensor) -> Tensor:
    """Pinned first for a GPU: a copy from ordinary memory would wait for it."""
    if tensor.device.type == "cpu":
        return numbers_K
    return numbers_K.pin_memory().to(tensor.device, non_blocking=True)


def filter_logits(logits_V: Tensor, row: SampleRow) -> Tensor:
    """Biased, penalised, tempered, and minus infinity for what may not be chosen: first of all for
    what the row does not allow, then in the order of `Sampling`.
    """
    sampling = row.sampling
    if row.allowed:
        logits_V = logits_V.masked_fill(~_allowed(logits_V, row.allowed), -math.inf)
    logits_V = _penalised(logits_V, row)
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


def _with_top(chosen_N2: Tensor, logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    # All that may be asked for, and `_choice` cuts: which of equally likely tokens are found must
    # not depend on how many are wanted.
    count = min(TOP_LOGPROBS_MAX, logits_NV.shape[1])
    results_N2P = chosen_N2.new_zeros((len(rows), 2 + 2 * count))
    results_N2P[:, :2] = chosen_N2
    for index, row in enumerate(rows):
        if row.sampling.top_logprobs:
            logits_1V = logits_NV[index : index + 1]
            results_N2P[index, 2:] = with_logprobs(logits_1V, logits_1V.topk(count).indices)[0]
    return results_N2P


def _choose_one(logits_V: Tensor, row: SampleRow) -> Tensor:
    """The first token up to which the probabilities sum to more than the uniform number."""
    logits_V = filter_logits(logits_V, row)
    if row.sampling.temperature == 0:
        return logits_V.argmax()
    cumulative_V = logits_V.double().softmax(dim=-1).cumsum(dim=-1)
    cumulative_V = cumulative_V / cumulative_V[-1]  # ends at 1, which no draw reaches
    # Filled in, not copied: a copy from ordinary memory would wait for all that the GPU has to do.
    drawn_1 = cumulative_V.new_full((1,), uniform(row.sampling.seed, row.position))
    token = torch.searchsorted(cumulative_V, drawn_1, right=True)
    # Only NaN gets beyond the end; it is reported with the results, not by a crashed device.
    return token[0].clamp(max=len(logits_V) - 1)


def _allowed(logits_V: Tensor, allowed: bytes) -> Tensor:
    """Those beyond its end are not: a vocabulary may have rows for padding."""
    bits = np.unpackbits(
        np.frombuffer(allowed, dtype=np.uint8), count=len(logits_V), bitorder="little"
    )
    return on_device_of(logits_V, torch.from_numpy(bits.view(np.bool_)))


def _penalised(logits_V: Tensor, row: SampleRow) -> Tensor:
    sampling = row.sampling
    logits_V = _plus(logits_V, dict(sampling.logit_bias))
    if sampling.repetition_penalty != 1:
        seen = [*row.prompt, *row.generated]
        logits_V = _repetition_penalised(logits_V, sampling.repetition_penalty, seen)
    if sampling.counts_tokens:
        presence, frequency = sampling.presence_penalty, sampling.frequency_penalty
        counts = Counter(row.generated)
        logits_V = _plus(logits_V, {t: -presence - n * frequency for t, n in counts.items()})
    return logits_V


def _repetition_penalised(logits_V: Tensor, penalty: float, seen: Sequence[int]) -> Tensor:
    tokens_K = on_device_of(logits_V, torch.tensor(seen, dtype=torch.int64))
    found_K = logits_V.gather(0, tokens_K)
    penalised_K = torch.where(found_K < 0, found_K * penalty, found_K / penalty)
    return logits_V.scatter(0, tokens_K, penalised_K)


def _plus(logits_V: Tensor, amounts: Mapping[int, float]) -> Tensor:
    """An amount for each of some tokens."""
    if not amounts:
        return logits_V
    tokens_K = on_device_of(logits_V, torch.tensor(list(amounts)))
    amounts_K = torch.tensor(list(amounts.values()), dtype=logits_V.dtype)
    return logits_V.scatter_add(0, tokens_K, on_device_of(logits_V, amounts_K))


def _top_p(logits_V: Tensor, top_p: float) -> Tensor:
    """Drops the least likely tokens that together are at most 1 - top_p; the likeliest stays."""
    probabilities_V = logits_V.softmax(dim=-1)
    # Tokens as rare as this are dropped even all together, so only the others need sorting: of a
    # model that knows what it says, a few hundred. (The 2 is for rounding: some must be left.) A
    # GPU sorts all in 0.1 ms, and to ask it how many they are would wait for all before.
    rare_V = 2 * len(logits_V) * probabilities_V < 1 - top_p
    if logits_V.device.type == "cpu":
        few = (~rare_V).nonzero()[:, 0]
        ascending, order = probabilities_V[few].sort()
        others = few[order]
    else:
        rare_V = torch.zeros_like(rare_V)
        ascending, others = probabilities_V.sort(stable=True)
    is_dropped = (probabilities_V * rare_V).sum() + ascending.cumsum(dim=0) <= 1 - top_p
    is_dropped[-1] = False
    return logits_V.masked_fill(rare_V.scatter(0, others, is_dropped), -math.inf)


def _choice(numbers: list[float], top_logprobs: int) -> Choice:
    """Of one row's pairs."""
    (token, logprob), *top = pairs(numbers)
    return Choice(token=token, logprob=logprob, top=likeliest(top, top_logprobs))
