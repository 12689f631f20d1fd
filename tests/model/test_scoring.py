"""Log-probabilities of given tokens: those of PyTorch, a few rows at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from edgeserve.cost import reserve
from edgeserve.cost.reserve import rows_at_a_time
from edgeserve.errors import EdgeserveError
from edgeserve.families.shapes import SHAPES
from edgeserve.frames.sampling import TOP_LOGPROBS_MAX
from edgeserve.model.scoring import ScoreRow, TokenScore, score, scores

HIDDEN, VOCAB = 8, 61


class Head:
    """A slice that is nothing but a head, and remembers how many rows it was asked for at once."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(1)
        self.spec = replace(SHAPES["llama-2-13b"], vocab=VOCAB)
        self.weight = torch.randn((VOCAB, HIDDEN), generator=random)
        self.asked: list[int] = []

    def logits(self, hidden_ND: Tensor) -> Tensor:
        self.asked.append(len(hidden_ND))
        return hidden_ND @ self.weight.T


def scored(head: Any, hidden: Tensor, rows: list[ScoreRow]) -> list[TokenScore]:
    return scores(score(head, hidden, rows), rows)


def hidden_of(tokens: int) -> Tensor:
    return torch.randn((tokens, HIDDEN), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rows_at_once", [1, 3, 64])
def test_a_tokens_score_is_its_place_in_the_whole_distribution(
    rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve, "LOGITS_BYTES", 4 * VOCAB * rows_at_once)
    head, hidden = Head(), hidden_of(12)
    rows = [ScoreRow(row, 5 * row % VOCAB, 3 * (row % 2)) for row in (0, 2, 3, 4, 7, 8, 11)]

    found = scored(head, hidden, rows)

    for row, got in zip(rows, found, strict=True):
        logprobs = (hidden[row.row] @ head.weight.T).log_softmax(-1)
        assert got.logprob == pytest.approx(float(logprobs[row.token]), abs=1e-5)
        ordered = logprobs.argsort(descending=True).tolist()
        assert got.rank == 1 + ordered.index(row.token)
        assert [token for token, _ in got.top] == ordered[: row.top_logprobs]
        told = [logprob for _, logprob in got.top]
        assert told == pytest.approx(logprobs[ordered[: row.top_logprobs]].tolist(), abs=1e-5)
    assert sum(head.asked) == len(rows)
    assert max(head.asked) == min(rows_at_once, len(rows))


def test_the_logits_that_are_there_at_once_are_bounded_whatever_the_vocabulary() -> None:
    for vocab in (100, 32_000, 151_936, 262_144, 10**8):
        rows = rows_at_a_time(vocab)
        assert rows >= 1
        assert rows == 1 or 4 * rows * vocab <= reserve.LOGITS_BYTES
    assert rows_at_a_time(128_000) >= 32, "or the head is read again and again"


def test_equally_likely_tokens_share_a_rank_and_come_in_the_order_of_their_ids() -> None:
    head = Head()
    head.weight[:] = 0.0
    head.weight[7] = -1.0
    hidden = torch.ones((2, HIDDEN))

    alike, last = scored(head, hidden, [ScoreRow(0, 40, 20), ScoreRow(1, 7, 0)])

    assert alike.rank == 1
    assert len(alike.top) == TOP_LOGPROBS_MAX
    ids = [token for token, _ in alike.top]
    assert ids == sorted(ids)
    assert (last.rank, last.top) == (VOCAB, ())


def test_logits_that_are_no_numbers_are_an_error_that_says_so() -> None:
    hidden = hidden_of(2)
    hidden[1] = torch.nan

    with pytest.raises(EdgeserveError, match="logits that are not numbers"):
        scored(Head(), hidden, [ScoreRow(0, 1, 0), ScoreRow(1, 1, 0)])
