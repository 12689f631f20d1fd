"""The result of a probe: a document for programs, a table for people. Both from the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeserve.probe.cluster import Cluster
from edgeserve.probe.load import Shape
from edgeserve.probe.rows import Measured, Percentiles, Refused, Row, efficiency, measured
from edgeserve.probe.verdict import Verdict

NUMBERS = (
    "output_tok_s", "tok_s_per_user", "ttft_ms", "tpot_ms", "compute_ms", "transfer_ms",
    "waiting_ms", "other_ms", "efficiency", "kv_tokens_in_use", "receipts_add_up",
    "tokens_per_lap", "drafted",
)  # fmt: skip
"""Keys of a row beside batch, status and reason; null if the batch did not run."""
TABLE_COLUMNS = 100
"""Wide enough for the table; a narrower terminal would cut numbers short."""


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    cluster: Cluster
    shape: Shape
    runs: int
    rows: tuple[Row, ...]
    verdict: Verdict


def to_json(report: ProbeReport) -> dict[str, Any]:
    """What `probe --json` prints."""
    return {
        "model": report.cluster.model,
        "dtype": report.cluster.dtype,
        "weights": report.cluster.weights,
        "simulation": report.cluster.simulation,
        "device": report.cluster.device,
        "input_tokens": report.shape.input_tokens,
        "output_tokens": report.shape.output_tokens,
        "runs": report.runs,
        "stages": [dict(each) for each in report.cluster.stages],
        "rows": [_row_document(row, report.rows) for row in report.rows],
        "verdict": {
            "pass": report.verdict.passed,
            "reasons": [each.text for each in report.verdict.findings],
        },
    }


def print_report(report: ProbeReport, console: Console) -> None:
    """For people."""
    console.print(Text(_title(report)), soft_wrap=True)
    console.print(
        Text(
            f"{report.shape.input_tokens} prompt and {report.shape.output_tokens} output tokens, "
            f"median of {report.runs} runs; times in ms, compute to other of a decoded token"
        ),
        soft_wrap=True,
    )
    console.print(_table(report.rows))
    for row in measured(report.rows):
        if row.drafted is not None:
            console.print(Text(_drafted_line(row, row.drafted)), soft_wrap=True)
    for finding in report.verdict.findings:
        console.print(Text(f"{'!' if finding.is_fault else '-'} {finding.text}"), soft_wrap=True)
    label = f" ({report.cluster.simulation})" if report.cluster.simulation else ""
    console.print(Text("verdict: " + ("pass" if report.verdict.passed else "FAIL") + label))


def _drafted_line(plain: Measured, drafted: Measured) -> str:
    return (
        f"batch {plain.batch} with drafted tokens: {drafted.output_tok_s:.1f} tok/s, "
        f"{drafted.tokens_per_lap:.2f} tokens a lap; plain: {plain.output_tok_s:.1f} tok/s, "
        f"{plain.tokens_per_lap:.2f} a lap"
    )


def wide_enough(console: Console) -> Console:
    """The console, made as wide as the table at least."""
    console.width = max(console.width, TABLE_COLUMNS)
    return console


def _title(report: ProbeReport) -> str:
    cluster = report.cluster
    names = [str(each.get("device_name") or each["device"]) for each in cluster.stages]
    devices = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    layers = f"{len(names)} stages of {cluster.layer_counts} layers"
    return ", ".join([cluster.model, cluster.dtype, *cluster.labels, layers, *devices])


def _row_document(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    if isinstance(row, Refused):
        status, reason = row.refusal.status, row.refusal.reason
        return {"batch": row.batch, "status": status, "reason": reason, **dict.fromkeys(NUMBERS)}
    scaled = efficiency(row, rows)
    values = (
        round(row.output_tok_s, 3),
        round(row.tok_s_per_user, 3),
        _rounded(row.ttft_ms),
        _rounded(row.tpot_ms),
        round(row.token.compute_ms, 3),
        round(row.token.transfer_ms, 3),
        round(row.token.waiting_ms, 3),
        round(row.token.other_ms, 3),
        None if scaled is None else round(scaled, 4),
        row.kv_tokens_in_use,
        row.receipts_add_up,
        round(row.tokens_per_lap, 3),
        _drafted_document(row.drafted),
    )
    numbers = dict(zip(NUMBERS, values, strict=True))
    return {"batch": row.batch, "status": "ok", "reason": None, **numbers}


def _drafted_document(row: Measured | None) -> dict[str, float] | None:
    """The figures that drafted tokens change, to stand beside the plain ones."""
    if row is None:
        return None
    return {
        "output_tok_s": round(row.output_tok_s, 3),
        "tok_s_per_user": round(row.tok_s_per_user, 3),
        "tokens_per_lap": round(row.tokens_per_lap, 3),
    }


def _rounded(percentiles: Percentiles) -> dict[str, float]:
    return {"p50": round(percentiles.p50, 3), "p99": round(percentiles.p99, 3)}


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in (
        "batch", "tok/s", "per user", "effic.", "TTFT\np50", "\np99", "TPOT\np50", "\np99",
        "com-\npute", "trans-\nfer", "wait-\ning", "other", "KV\ntokens",
    ):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, rows))
    return table


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    if isinstance(row, Refused):
        return [str(row.batch), row.refusal.status]
    scaled = efficiency(row, rows)
    return [
        str(row.batch),
        f"{row.output_tok_s:.1f}",
        f"{row.tok_s_per_user:.1f}",
        "" if scaled is None else f"{scaled:.2f}",
        *_times_ms(row),
        f"{row.kv_tokens_in_use:,}",
    ]


def _times_ms(row: Measured) -> list[str]:
    token = row.token
    times_ms = (
        row.ttft_ms.p50, row.ttft_ms.p99, row.tpot_ms.p50, row.tpot_ms.p99,
        token.compute_ms, token.transfer_ms, token.waiting_ms, token.other_ms,
    )  # fmt: skip
    return [f"{ms:.2f}" if ms < 10 else f"{ms:.1f}" for ms in times_ms]
