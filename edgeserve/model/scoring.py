"""How likely given tokens are, each behind the row before it: the log-probabilities of a prompt.

The logits of a whole prompt may be larger than the model, so they are there for a few rows at a
time, and all that is kept of a row is a handful of numbers.

    T tokens of the frame, D hidden, M tokens that are scored, B of them at a time, V vocabulary,
    P numbers of each, in fp64: its rank, and then pairs of a token and its log-probability: the
      token's own, and behind it the most likely ones if any row wants them told
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edgeserve.cost.reserve import rows_at_a_time
from edgeserve.frames.sampling import TOP_LOGPROBS_MAX
from edgeserve.model.sampling import likeliest, on_device_of, pairs, with_logprobs
from edgeserve.model.slice import Slice


class ScoreRow(NamedTuple):
    """A token, and the row of the frame that it follows."""

    row: int
    token: int
    top_logprobs: int


class Results(NamedTuple):
    """What a stage has of a frame, on the host or on its way there."""

    out: Tensor
    """Hidden states [T, D]; on the last stage what `sample` gives."""
    scores_MP: Tensor | None
    """What `score` gives, where something is to be scored."""


@dataclass(frozen=True, kw_only=True)
class TokenScore:
    logprob: float
    """Natural logarithm, of the unfiltered distribution at temperature 1."""
    rank: int
    """1 + how many tokens are likelier."""
    top: tuple[tuple[int, float], ...]
    """The most likely tokens and their log-probabilities, in this order; as many as were asked for,
    as far as they are possible at all.
    """


def score(slice_: Slice, hidden_TD: Tensor, rows: Sequence[ScoreRow]) -> Tensor:
    """[M, P], without waiting for a GPU. `slice_` has the head."""
    tells_top = any(each.top_logprobs for each in rows)
    # All that may be asked for, and `scores` cuts, as in sampling.
    top = min(TOP_LOGPROBS_MAX, slice_.spec.vocab) if tells_top else 0
    numbers_2M = torch.tensor([[each.row for each in rows], [each.token for each in rows]])
    rows_M, tokens_M = on_device_of(hidden_TD, numbers_2M)
    size = rows_at_a_time(slice_.spec.vocab)
    blocks = [
        _block(slice_.logits(hidden_TD.index_select(0, rows_B)), tokens_B[:, None], top)
        for rows_B, tokens_B in zip(rows_M.split(size), tokens_M.split(size), strict=True)
    ]
    return torch.cat(blocks)


def scores(numbers_MP: Tensor, rows: Sequence[ScoreRow]) -> list[TokenScore]:
    """Raises EdgeserveError if the logits were not numbers."""
    return [
        _score(*numbers, top_logprobs=row.top_logprobs)
        for numbers, row in zip(numbers_MP.tolist(), rows, strict=True)
    ]


def _block(logits_BV: Tensor, tokens_B1: Tensor, top: int) -> Tensor:
    """[B, P]."""
    likelier_B1 = (logits_BV > logits_BV.gather(-1, tokens_B1)).sum(dim=-1, keepdim=True)
    told_BK = torch.cat((tokens_B1, logits_BV.topk(top).indices), dim=-1)
    return torch.cat((likelier_B1 + 1, with_logprobs(logits_BV, told_BK)), dim=-1)


def _score(rank: float, *numbers: float, top_logprobs: int) -> TokenScore:
    (_, logprob), *top = pairs(numbers)
    return TokenScore(logprob=logprob, rank=int(rank), top=likeliest(top, top_logprobs))
