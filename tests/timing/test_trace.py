"""The trace is what Chrome's format asks for, and shows what happened when."""

from __future__ import annotations

import random
from typing import Any

import pytest

from edgeserve.frames.stage_time import StageTime
from edgeserve.timing.hop import Hop
from edgeserve.timing.observer import Step
from edgeserve.timing.trace import trace_events
from tests.timing.made_steps import LABELS, step_at
from tests.timing.trace_schema import check_trace


def row(events: list[dict[str, Any]], tid: int) -> list[tuple[str, float, float]]:
    """Name, beginning and duration in ms."""
    return [
        (each["name"], each["ts"] / 1e3, each["dur"] / 1e3)
        for each in events
        if each["tid"] == tid and each["ph"] == "X"
    ]


def near(*spans: tuple[str, float, float]) -> list[Any]:
    return [(name, pytest.approx(at), pytest.approx(took)) for name, at, took in spans]


def test_a_step_is_drawn_where_it_happened() -> None:
    events = list(trace_events(LABELS, [step_at(7, ordered_s=5000.0)]))
    check_trace(events, rows=3)
    assert row(events, 0) == near(("order", 0, 1), ("relay", 11, 1), ("book", 20, 1))
    assert row(events, 1) == near(("frame 7", 3.5, 6))
    #      sent at 1; half of 2 ms on the link, then 1.5 ms of queue and decoding
    assert row(events, 2) == near(("frame 7", 13, 5))
    args = next(each["args"] for each in events if each["tid"] == 1 and each["ph"] == "X")
    assert args == {
        "frame": 7, "tokens": 3, "sequences": 2,
        "compute_ms": 6.0, "transfer_ms": 2.0, "waiting_ms": 1.0,
    }  # fmt: skip


def test_rows_are_named_after_stages_and_their_workers() -> None:
    events = list(trace_events(LABELS, []))
    check_trace(events, rows=3)
    assert [each["args"]["name"] for each in events] == [
        "edgeserve",
        "gateway",
        "stage 0: layers [0, 2) on 10.0.0.1:50051",
        "stage 1: layers [2, 4) on 10.0.0.2:50051",
    ]


def test_frames_in_flight_at_once_stay_in_order_in_every_row() -> None:
    steps = [step_at(1, 0.0), step_at(2, 0.0115)]
    #      the second is ordered while the first is still on its way
    events = list(trace_events(LABELS, steps))
    check_trace(events, rows=3)
    names = [name for name, _, _ in row(events, 0)]
    assert names == ["order", "relay", "order", "book", "relay", "book"]
    assert [name for name, _, _ in row(events, 1)] == ["frame 1", "frame 2"]


def test_what_stages_claim_never_makes_events_overlap() -> None:
    draw, now_s, steps = random.Random(3), 0.0, []
    for frame in range(200):
        now_s += draw.uniform(0, 0.004)
        sent_s = now_s + draw.uniform(0, 0.003)
        took_s = draw.uniform(0, 0.01)
        inside = StageTime(queue_s=draw.uniform(0, 0.02), compute_s=draw.uniform(0, 0.02))
        #      more than the round trip, often
        hop = Hop(stage=0, sent_s=sent_s, returned_s=sent_s + took_s, inside=inside)
        steps.append(
            Step(
                frame=frame, tokens=1, sequences=1,
                ordered_s=now_s, hops=(hop,), done_s=hop.returned_s,
            )
        )  # fmt: skip
    events = list(trace_events(LABELS[:1], steps))
    check_trace(events, rows=2)
    assert len(row(events, 1)) == 200
    assert sum(took for _, _, took in row(events, 1)) > 0
