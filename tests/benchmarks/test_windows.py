"""Rates and gaps from instants that are known."""

from __future__ import annotations

import pytest

from benchmarks.client import Answer
from benchmarks.windows import decode_tok_s, gaps_during_s, gaps_together_s, median_gap_s


def answer(*token_s: float, sent_s: float = 0.0) -> Answer:
    ids = tuple(range(len(token_s)))
    return Answer(sent_s=sent_s, token_s=token_s, token_ids=ids, receipt={})


def test_a_sequence_alone_decodes_between_its_first_and_its_last_token() -> None:
    assert decode_tok_s([[10.0, 10.5, 11.0, 11.5]]) == pytest.approx(2.0)


def test_only_what_all_sequences_decode_together_counts() -> None:
    early = [0.0, 1.0, 2.0, 3.0, 4.0]  # one a second, the first while the other's prompt is read
    late = [1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]  # two a second, the last of them alone

    # from 1.5 to 4: three of the early one, five of the late one
    assert decode_tok_s([early, late]) == pytest.approx(8 / 2.5)


def test_sequences_that_never_decode_together_are_refused() -> None:
    with pytest.raises(ValueError, match="one ends 1.00 s before another begins"):
        decode_tok_s([[0.0, 1.0], [2.0, 3.0]])


def test_one_late_token_does_not_move_the_median_gap() -> None:
    assert median_gap_s(answer(1.0, 2.0, 3.0, 9.0)) == pytest.approx(1.0)


def test_gaps_together_begin_and_end_while_all_decode() -> None:
    first = answer(0.0, 3.0, 4.0, 5.0, 7.0)
    second = answer(2.0, 4.0, 6.0)

    # of the first one, 0-3 began too early and 5-7 ended too late
    assert gaps_together_s([first, second]) == [1.0, 1.0, 2.0, 2.0]


def test_a_gap_counts_as_disturbed_wherever_it_touches_the_reading_of_a_prompt() -> None:
    decoding = answer(0.0, 1.0, 3.0, 6.0, 7.0, 8.0)
    intruder = answer(6.5, sent_s=2.0)

    # sent at 2 within the gap 1-3, its first token at 6.5 within the gap 6-7
    assert gaps_during_s([decoding], [intruder]) == [2.0, 3.0, 1.0]
    assert gaps_during_s([decoding], []) == []
