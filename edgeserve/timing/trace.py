"""The last steps as a picture: Chrome's trace format, which Perfetto opens. One row for the
gateway, one for each stage; what is empty in a stage's row is a bubble.

    gateway   | |          | |         | |
    stage 0   |############|           |############|
    stage 1                |###########|            |####

A stage's clock is not known here, only how long it did what. Its compute is drawn where it lies if
both directions of the link took as long: off by half of the transfer at most. A device computes one
frame after another, so where that guess would overlap the frame before, it is cut off there; exact
figures are in `args`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.timing.observer import Step

Event = dict[str, Any]
PROCESS = 1
GATEWAY_ROW = 0
DIGITS = 3
"""Of a microsecond: finer than the clock."""


class _Span(NamedTuple):
    """Times are the gateway's clock."""

    row: int
    name: str
    start_s: float
    end_s: float
    args: dict[str, Any]


def trace_events(labels: Sequence[StageLabel], steps: Sequence[Step]) -> Iterator[Event]:
    """Those that name the rows, then the steps' by their beginning. Time 0 is when the first of
    them was ordered.
    """
    names = ["gateway", *(_stage_name(label) for label in labels)]
    yield _naming("process_name", 0, "edgeserve")
    yield from (_naming("thread_name", row, name) for row, name in enumerate(names))
    spans = chain.from_iterable((*_computing(step), *_relaying(step)) for step in steps)
    origin_s = min((step.ordered_s for step in steps), default=0.0)
    free_s = [origin_s] * len(names)
    for span in sorted(spans, key=attrgetter("start_s")):
        start_s = max(span.start_s, free_s[span.row])
        end_s = free_s[span.row] = max(span.end_s, start_s)
        yield _complete(span, start_s - origin_s, end_s - origin_s)


def _computing(step: Step) -> Iterator[_Span]:
    for hop in step.hops:
        split, start_s = hop.split, _compute_start_s(hop)
        args = {
            "frame": step.frame,
            "tokens": step.tokens,
            "sequences": step.sequences,
            "compute_ms": round(1e3 * split.compute_s, 4),
            "transfer_ms": round(1e3 * split.transfer_s, 4),
            "waiting_ms": round(1e3 * split.waiting_s, 4),
        }
        end_s = start_s + split.compute_s
        yield _Span(hop.stage + 1, f"frame {step.frame}", start_s, end_s, args)


def _compute_start_s(hop: Hop) -> float:
    """After half of the transfer, and after what the stage does before it computes. What it claims
    beyond the round trip is scaled to it, as `Hop.split` does.
    """
    inside = hop.inside
    scale = min(1.0, hop.round_trip_s / inside.held_s) if inside.held_s > 0 else 1.0
    before_s = inside.queue_s + inside.decode_s + inside.copy_in_s
    return hop.sent_s + hop.transfer_s / 2 + before_s * scale


def _relaying(step: Step) -> Iterable[_Span]:
    """What the gateway does with the frame: before each stage, and after the last one."""
    starts_s = [step.ordered_s, *(hop.returned_s for hop in step.hops)]
    ends_s = [*(hop.sent_s for hop in step.hops), step.done_s]
    names = ["order", *("relay" for _ in step.hops[1:]), "book"]
    for name, start_s, end_s in zip(names, starts_s, ends_s, strict=True):
        yield _Span(GATEWAY_ROW, name, start_s, end_s, {"frame": step.frame})


def _complete(span: _Span, start_s: float, end_s: float) -> Event:
    return {
        "name": span.name,
        "cat": "gateway" if span.row == GATEWAY_ROW else "stage",
        "ph": "X",
        "ts": round(1e6 * start_s, DIGITS),
        "dur": round(1e6 * (end_s - start_s), DIGITS),
        "pid": PROCESS,
        "tid": span.row,
        "args": span.args,
    }


def _naming(what: str, row: int, name: str) -> Event:
    return {"name": what, "ph": "M", "pid": PROCESS, "tid": row, "args": {"name": name}}


def _stage_name(label: StageLabel) -> str:
    start, end = label.layers
    return f"stage {label.stage}: layers [{start}, {end}) on {label.worker}"
