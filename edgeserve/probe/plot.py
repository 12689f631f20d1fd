"""The table as a picture: throughput against batch, and where a token's time went."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgeserve.errors import BadRequest
from edgeserve.probe.report import ProbeReport
from edgeserve.probe.rows import Measured, measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("compute", "transfer", "waiting", "other")
COLOURS = ("#33658a", "#f6ae2d", "#f26419", "#9a9a9a")
"""Told apart by people who do not see red and green as different, and in grey."""


def check_plot(path: Path) -> None:
    """Before anything is measured. Raises BadRequest if no picture could be written there."""
    if path.suffix.lower() != ".png":
        raise BadRequest(f"--plot {path}: only .png is written")
    if not path.absolute().parent.is_dir():
        raise BadRequest(f"--plot {path}: there is no folder {path.absolute().parent}")
    if find_spec("matplotlib") is None:
        raise BadRequest(
            "--plot needs matplotlib, which is not installed: pip install 'edgeserve[plot]'"
        )


def write_plot(report: ProbeReport, path: Path) -> None:
    try:
        draw(report).savefig(path, dpi=120)
    except OSError as error:
        raise BadRequest(f"--plot {path}: cannot be written: {error.strerror}") from None


def draw(report: ProbeReport) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: that would look for a display

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = measured(report.rows)
    cluster = report.cluster
    figure.suptitle(
        f"{', '.join([cluster.model, cluster.dtype, *cluster.labels])}: "
        f"{report.shape.input_tokens} prompt and {report.shape.output_tokens} output tokens"
    )
    if rows:
        _draw_throughput(left, rows)
        _draw_token(right, rows)
    return figure


def _draw_throughput(axes: Axes, rows: list[Measured]) -> None:
    batches = [row.batch for row in rows]
    alone = rows[0].output_tok_s / rows[0].batch
    axes.plot(
        batches, [row.output_tok_s for row in rows], marker="o", color=COLOURS[0], label="measured"
    )
    axes.plot(
        batches, [batch * alone for batch in batches], "--", color=COLOURS[3],
        label=f"ideal: batch x {alone:.1f}",
    )  # fmt: skip
    axes.set(xlabel="batch", ylabel="output tokens per second", ylim=(0, None))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _draw_token(axes: Axes, rows: list[Measured]) -> None:
    names = [str(row.batch) for row in rows]
    below = [0.0] * len(rows)
    for kind, colour in zip(KINDS, COLOURS, strict=True):
        heights = [_ms(row, kind) for row in rows]
        axes.bar(names, heights, bottom=below, color=colour, label=kind)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set(xlabel="batch", ylabel="milliseconds of a token")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(KINDS), frameon=False)


def _ms(row: Measured, kind: str) -> float:
    times = {
        "compute": row.token.compute_ms,
        "transfer": row.token.transfer_ms,
        "waiting": row.token.waiting_ms,
        "other": row.token.other_ms,
    }
    return times[kind]
