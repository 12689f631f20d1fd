"""Figures from the instants at which tokens came. Pure: seconds in, seconds and rates out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.client import Answer


def decode_tok_s(sequences: Sequence[Sequence[float]]) -> float:
    """Tokens per second of all sequences together while every one of them decodes.

        a  |prompt|x  x  x  x  x  x
        b  |    prompt    |x  x  x  x  x  x
                          |<- these ->|

    From the last of the first tokens to the first of the last ones. A prompt that is read beside
    decodes, and sequences that run on alone, belong to neither side of a comparison.
    """
    start_s = max(each[0] for each in sequences)
    end_s = min(each[-1] for each in sequences)
    if end_s <= start_s:
        raise ValueError(
            f"the {len(sequences)} sequences never decode together: one ends "
            f"{start_s - end_s:.2f} s before another begins; ask for more new tokens"
        )
    inside = sum(start_s < at_s <= end_s for each in sequences for at_s in each)
    return inside / (end_s - start_s)


def median_gap_s(answer: Answer) -> float:
    """Between two tokens of a sequence. The median, since one late wake-up is not the model's."""
    return statistics.median(gap_s for _, gap_s in answer.gaps_s)


def gaps_together_s(answers: Sequence[Answer]) -> list[float]:
    """Between tokens of a sequence, while every sequence decodes."""
    start_s = max(each.token_s[0] for each in answers)
    end_s = min(each.token_s[-1] for each in answers)
    gaps = (each for answer in answers for each in answer.gaps_s)
    return [gap_s for at_s, gap_s in gaps if at_s - gap_s >= start_s and at_s <= end_s]


def gaps_during_s(answers: Sequence[Answer], intruders: Sequence[Answer]) -> list[float]:
    """Between tokens of a sequence, wherever a gap touches the reading of an intruder's prompt.

    The harshest of the definitions: gaps of undisturbed moments do not dilute the percentile.
    """
    reading = [(each.sent_s, each.token_s[0]) for each in intruders]
    gaps = (each for answer in answers for each in answer.gaps_s)
    return [
        gap_s
        for at_s, gap_s in gaps
        if any(at_s > start_s and at_s - gap_s < end_s for start_s, end_s in reading)
    ]
