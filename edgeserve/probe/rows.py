"""From what was observed to one row for each batch. Every figure's definition stands beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgeserve.probe.cluster import Cluster
from edgeserve.probe.load import Answer, LoadRun, Refusal, Shape
from edgeserve.probe.receipt import ADDS_UP_WITHIN, StageTimes, Times, mean_times

SHORTEST_S = 1e-6
"""For an answer of one token, which has no time between tokens: its row is a fault all the same."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A batch that ran, over all its runs."""

    batch: int
    output_tok_s: float
    """All tokens of a run over all its time, prompts included; the median of the runs."""
    tok_s_per_user: float
    """What one of them reads: 1 over its time between tokens, on average."""
    ttft_ms: Percentiles
    """From the request to its first token, at the client."""
    tpot_ms: Percentiles
    """(end to end - ttft) / (n - 1) of each request, at the client."""
    token: Times
    """Of a token of the decode, by the receipts; the mean."""
    at_once: int
    """How many of the batch ran together; the others had to wait."""
    kv_tokens_in_use: int
    """Reserved in pages at the peak, for the prompts and answers of those that ran together."""
    discrepancy: float
    """The worst of all receipts: by which share their parts miss their totals."""
    prompt_tokens: tuple[int, int]
    """The shortest and the longest prompt, by the receipts."""
    answer_tokens: tuple[int, int]
    stages: tuple[StageTimes, ...]
    """Compute of each stage, summed over a request; the mean."""
    tokens_per_lap: float
    """Of the decode: 1 unless drafted tokens came true."""
    drafted: Measured | None = None
    """The same batch with drafted tokens, if that was asked for."""

    @property
    def receipts_add_up(self) -> bool:
        return self.discrepancy <= ADDS_UP_WITHIN


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A batch that did not run."""

    batch: int
    refusal: Refusal


Row = Measured | Refused


def row_of(batch: int, outcome: Sequence[LoadRun] | Refusal, shape: Shape, cluster: Cluster) -> Row:
    if isinstance(outcome, Refusal):
        return Refused(batch=batch, refusal=outcome)
    answers = [answer for run in outcome for answer in run.answers]
    receipts = [answer.receipt for answer in answers]
    decoded = sum(each.decode_tokens for each in receipts)
    return Measured(
        batch=batch,
        output_tok_s=statistics.median(run.output_tok_s for run in outcome),
        tok_s_per_user=1 / max(SHORTEST_S, statistics.mean(each.tpot_s for each in answers)),
        ttft_ms=_percentiles_ms(answers, lambda each: each.ttft_s),
        tpot_ms=_percentiles_ms(answers, lambda each: each.tpot_s),
        token=mean_times([each.decode for each in receipts], max(1, decoded)),
        at_once=max(run.at_once for run in outcome),
        kv_tokens_in_use=kv_tokens(max(run.at_once for run in outcome), shape, cluster),
        discrepancy=max(each.discrepancy for each in receipts),
        prompt_tokens=_ends([each.prefill_tokens for each in receipts]),
        answer_tokens=_ends([len(each.token_s) for each in answers]),
        stages=_mean_stages([each.stages for each in receipts]),
        tokens_per_lap=decoded / max(1, sum(each.decode_laps for each in receipts)),
    )


def kv_tokens(sequences: int, shape: Shape, cluster: Cluster) -> int:
    """What their pages hold: admission reserves whole pages for the worst case."""
    pages_each = math.ceil((shape.input_tokens + shape.output_tokens) / cluster.page_tokens)
    return sequences * pages_each * cluster.page_tokens


def measured(rows: Sequence[Row]) -> list[Measured]:
    return [row for row in rows if isinstance(row, Measured)]


def efficiency(row: Measured, rows: Sequence[Row]) -> float | None:
    """(tok/s at b) / (b x tok/s at 1); None if batch 1 was not measured."""
    alone = next((each for each in measured(rows) if each.batch == 1), None)
    return row.output_tok_s / (row.batch * alone.output_tok_s) if alone else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def _percentiles_ms(answers: Sequence[Answer], of: Callable[[Answer], float]) -> Percentiles:
    values_ms = [of(each) * 1e3 for each in answers]
    return Percentiles(p50=percentile(values_ms, 50), p99=percentile(values_ms, 99))


def _ends(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)


def _mean_stages(of_receipts: Sequence[tuple[StageTimes, ...]]) -> tuple[StageTimes, ...]:
    return tuple(
        StageTimes(
            stage=same[0].stage,
            worker=same[0].worker,
            compute_ms=statistics.mean(each.compute_ms for each in same),
        )
        for same in zip(*of_receipts, strict=True)
    )
