"""Chooses the next token of each row of logits, and says which others were likely.

What a row gets depends on that row alone, never on the batch. Randomness is one uniform number per
token from a counter-based generator: the key is the request's seed, the counter the token's
position. A replay, another batch or another worker draws the same number.

    N rows, V vocabulary, K tokens of each row,
    P pairs of a token and its log-probability, side by side in fp64, which token ids fit: the
      chosen token, and behind it the most likely ones if any row wants them told
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

from edgeserve.cost.reserve import DRAWN_NUMBERS, rows_at_a_time
from edgeserve.errors import EdgeserveError
from edgeserve.frames.sampling import TOP_LOGPROBS_MAX, Sampling

HOST_NUMBERS, DEVICE_NUMBERS = 2**15, DRAWN_NUMBERS
"""Logits from which tokens are drawn at a time, rows together. On a CPU so few that what is made of
them stays in its caches; and PyTorch, which shares sums of more numbers out to threads, adds a row
up in the same order whatever is beside it. On a GPU so many that a kernel is worth its launch (16
rows of 32,000 tokens, 4 of 128,000); sorted and summed they take about 50 bytes each, together less
than what `scoring.py` holds at a time."""
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
    others = [at for at, row in enumerate(rows) if not row.takes_most_likely]
    for some in _pieces(others, logits_NV):
        logits_MV = _taken(logits_NV, some)
        tokens_M1 = _choose(logits_MV, [rows[at] for at in some])
        _put(chosen_N2, some, with_logprobs(logits_MV, tokens_M1))
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
    return _filtered(logits_V[None], [row])[0]


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
    told = [at for at, row in enumerate(rows) if row.sampling.top_logprobs]
    for some in _pieces(told, logits_NV):
        logits_MV = _taken(logits_NV, some)
        likely_MK = logits_MV.topk(count).indices
        _put(results_N2P[:, 2:], some, with_logprobs(logits_MV, likely_MK))
    return results_N2P


# -- rows together


def _pieces(rows: Sequence[int], logits_NV: Tensor) -> Iterator[Sequence[int]]:
    """As many rows as are computed at a time."""
    numbers = HOST_NUMBERS if logits_NV.device.type == "cpu" else DEVICE_NUMBERS
    size = max(1, numbers // logits_NV.shape[1])
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _taken(numbers_NX: Tensor, rows: Sequence[int]) -> Tensor:
    """These rows, which ascend; a view if they follow one another."""
    if _follow(rows):
        return numbers_NX[rows[0] : rows[-1] + 1]
    return numbers_NX.index_select(0, on_device_of(numbers_NX, torch.tensor(rows)))


def _put(numbers_NX: Tensor, rows: Sequence[int], values_MX: Tensor) -> None:
    if _follow(rows):
        numbers_NX[rows[0] : rows[-1] + 1] = values_MX
    else:
        numbers_NX.index_copy_(0, on_device_of(numbers_NX, torch.tensor(rows)), values_MX)


def _follow(rows: Sequence[int]) -> bool:
    return rows[-1] - rows[0] == len(rows) - 1


def _column(logits_NV: Tensor, numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
    """[N, 1], where the logits are. One alone is filled in, which copies nothing."""
    if len(numbers) == 1:
        return logits_NV.new_full((1, 1), numbers[0], dtype=dtype)
    return on_device_of(logits_NV, torch.tensor(numbers, dtype=dtype)[:, None])


def _choose(logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Tokens [N, 1]: the first up to which a row's probabilities sum to more than its uniform
    number, or a greedy row's likeliest.
    """
    logits_NV = _filtered(logits_NV, rows)
    greedy = [row.sampling.temperature == 0 for row in rows]
    if all(greedy):
        return logits_NV.argmax(dim=-1, keepdim=True)
    drawn = [uniform(row.sampling.seed, row.position) for row in rows]
    drawn_N1 = _column(logits_NV, drawn, torch.float64)
    cumulative_NV = logits_NV.double().softmax(dim=-1).cumsum(dim=-1)
    cumulative_NV = cumulative_NV / cumulative_NV[:, -1:]  # ends at 1, which no draw reaches
    tokens_N1 = torch.searchsorted(cumulative_NV, drawn_N1, right=True)
    # Only NaN gets beyond the end; it is reported with the results, not by a crashed device.
    tokens_N1 = tokens_N1.clamp(max=logits_NV.shape[1] - 1)
    if any(greedy):
        likeliest_N1 = logits_NV.argmax(dim=-1, keepdim=True)
        is_greedy_N1 = _column(logits_NV, greedy, torch.bool)
        tokens_N1 = torch.where(is_greedy_N1, likeliest_N1, tokens_N1)
    return tokens_N1


def _filtered(logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """What any row wants is done to all of them, with a number that changes nothing of the others,
    to the last bit.
    """
    wanted = [row.sampling for row in rows]
    if any(row.allowed for row in rows):
        logits_NV = logits_NV.masked_fill(~_allowed(logits_NV, rows), -math.inf)
    logits_NV = _penalised(logits_NV, rows)
    if any(each.temperature > 0 for each in wanted):
        heats = [
            max(each.temperature, TEMPERATURE_MIN) if each.temperature else 1 for each in wanted
        ]
        logits_NV = logits_NV / _column(logits_NV, heats, logits_NV.dtype)
    if any(0 < each.top_k < logits_NV.shape[1] for each in wanted):
        logits_NV = _top_k(logits_NV, [each.top_k for each in wanted])
    if any(each.top_p < 1 for each in wanted):
        logits_NV = _top_p(logits_NV, [1 - each.top_p for each in wanted])
    if any(each.min_p > 0 for each in wanted):
        shares = [math.log(each.min_p) if each.min_p > 0 else -math.inf for each in wanted]
        least_N1 = logits_NV.amax(dim=-1, keepdim=True)
        least_N1 = least_N1 + _column(logits_NV, shares, logits_NV.dtype)
        logits_NV = logits_NV.masked_fill(logits_NV < least_N1, -math.inf)
    return logits_NV


def _allowed(logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Those beyond a mask's end are not: a vocabulary may have rows for padding."""
    allowed_NV = np.ones(logits_NV.shape, dtype=np.bool_)
    for allowed_V, row in zip(allowed_NV, rows, strict=True):
        if row.allowed:
            bits = np.frombuffer(row.allowed, dtype=np.uint8)
            allowed_V[:] = np.unpackbits(bits, count=len(allowed_V), bitorder="little")
    return on_device_of(logits_NV, torch.from_numpy(allowed_NV))


def _penalised(logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    if any(row.sampling.logit_bias for row in rows):
        logits_NV = _plus(logits_NV, [dict(row.sampling.logit_bias) for row in rows])
    if any(row.sampling.repetition_penalty != 1 for row in rows):
        logits_NV = _repetition_penalised(logits_NV, rows)
    if any(row.sampling.counts_tokens for row in rows):
        logits_NV = _plus(logits_NV, [_counted(row) for row in rows])
    return logits_NV


def _counted(row: SampleRow) -> Mapping[int, float]:
    if not row.sampling.counts_tokens:
        return {}
    presence, frequency = row.sampling.presence_penalty, row.sampling.frequency_penalty
    return {t: -presence - n * frequency for t, n in Counter(row.generated).items()}


def _repetition_penalised(logits_NV: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    vocab, places, penalties = logits_NV.shape[1], [], []
    for at, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1:
            seen = np.array((*row.prompt, *row.generated), dtype=np.int64)
            places.append(seen + at * vocab)
            penalty = np.float32(row.sampling.repetition_penalty)
            penalties.append(np.full(len(seen), penalty))
    places_K = on_device_of(logits_NV, torch.from_numpy(np.concatenate(places)))
    penalties_K = on_device_of(logits_NV, torch.from_numpy(np.concatenate(penalties)))
    flat = logits_NV.flatten()
    found_K = flat.gather(0, places_K)
    penalised_K = torch.where(found_K < 0, found_K * penalties_K, found_K / penalties_K)
    return flat.scatter(0, places_K, penalised_K).view(logits_NV.shape)


def _plus(logits_NV: Tensor, amounts: Sequence[Mapping[int, float]]) -> Tensor:
    """An amount for each of some tokens of each row."""
    if not any(amounts):
        return logits_NV
    starts = np.arange(len(amounts)) * logits_NV.shape[1]
    tokens = np.array([*itertools.chain.from_iterable(amounts)], dtype=np.int64)
    places = tokens + np.repeat(starts, [len(each) for each in amounts])
    places_K = on_device_of(logits_NV, torch.from_numpy(places))
    amounts_K = torch.tensor(
        [amount for each in amounts for amount in each.values()], dtype=logits_NV.dtype
    )
    plus = logits_NV.flatten().scatter_add(0, places_K, on_device_of(logits_NV, amounts_K))
    return plus.view(logits_NV.shape)


def _top_k(logits_NV: Tensor, top_k: Sequence[int]) -> Tensor:
    """Keeps as many as each row wants, and all that equal the last of them. 0 keeps all."""
    vocab = logits_NV.shape[1]
    kept = [count if 0 < count < vocab else 0 for count in top_k]
    likeliest_NK = logits_NV.topk(max(kept)).values
    last_N1 = _column(logits_NV, [max(0, count - 1) for count in kept], torch.int64)
    least_N1 = likeliest_NK.gather(1, last_N1)
    if not all(kept):
        keeps_all_N1 = _column(logits_NV, [count == 0 for count in kept], torch.bool)
        least_N1 = least_N1.masked_fill(keeps_all_N1, -math.inf)
    return logits_NV.masked_fill(logits_NV < least_N1, -math.inf)


def _top_p(logits_NV: Tensor, dropped: Sequence[float]) -> Tensor:
    """Drops the least likely tokens that together are at most so likely; the likeliest stays."""
    probabilities_NV = logits_NV.softmax(dim=-1)
    if logits_NV.device.type == "cpu":
        rows = zip(probabilities_NV, dropped, strict=True)
        is_dropped_NV = torch.stack([_least_likely(each_V, most) for each_V, most in rows])
    else:
        is_dropped_NV = _sorted_least_likely(probabilities_NV, dropped)
    return logits_NV.masked_fill(is_dropped_NV, -math.inf)


def _sorted_least_likely(probabilities_NV: Tensor, dropped: Sequence[float]) -> Tensor:
    """What `_least_likely` gives, of all rows together."""
    # A GPU sorts all in 0.1 ms, and to ask it how many are not rare would wait for all before.
    ascending_NV, order_NV = probabilities_NV.sort(dim=-1, stable=True)
    # -1 where nothing is to be dropped: tokens without any probability stay, too.
    most = [each if each > 0 else -1.0 for each in dropped]
    most_N1 = _column(probabilities_NV, most, probabilities_NV.dtype)
    is_dropped_NV = ascending_NV.cumsum(dim=-1) <= most_N1
    is_dropped_NV[:, -1] = False
    return torch.zeros_like(is_dropped_NV).scatter(1, order_NV, is_dropped_NV)


def _least_likely(probabilities_V: Tensor, dropped: float) -> Tensor:
    """Those that together are at most so likely, and never all of them."""
    if dropped <= 0:
        return torch.zeros_like(probabilities_V, dtype=torch.bool)
    # Tokens as rare as this are dropped even all together, so only the others need sorting: of a
    # model that knows what it says, a few hundred. (The 2 is for rounding: some must be left.)
    rare_V = 2 * len(probabilities_V) * probabilities_V < dropped
    few = (~rare_V).nonzero()[:, 0]
    ascending, order = probabilities_V[few].sort()
    is_dropped = (probabilities_V * rare_V).sum() + ascending.cumsum(dim=0) <= dropped
    is_dropped[-1] = False
    return rare_V.scatter(0, few[order], is_dropped)


def _choice(numbers: list[float], top_logprobs: int) -> Choice:
    """Of one row's pairs."""
    (token, logprob), *top = pairs(numbers)
    return Choice(token=token, logprob=logprob, top=likeliest(top, top_logprobs))
