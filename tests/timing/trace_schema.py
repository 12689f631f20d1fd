"""What 'Trace Event Format' asks of metadata and complete events, and what a viewer needs."""

from __future__ import annotations

import json
from typing import Any

ROUNDING_US = 0.002
"""Of a beginning and of a duration."""


def check_trace(events: list[dict[str, Any]], rows: int) -> None:
    """Rows are named, and events of a row follow one another: one that overlapped the one before
    would be drawn inside of it.
    """
    assert json.loads(json.dumps(events, allow_nan=False)) == events
    named = [each for each in events if each["ph"] == "M"]
    assert [each["tid"] for each in named if each["name"] == "thread_name"] == list(range(rows))
    assert all(each["args"]["name"] for each in named)
    free_us = [0.0] * rows
    for each in events[len(named) :]:
        assert each["ph"] == "X"
        assert {"name", "cat", "ts", "dur", "pid", "tid", "args"} == each.keys() - {"ph"}
        assert each["dur"] >= 0
        assert each["ts"] >= free_us[each["tid"]] - ROUNDING_US
        free_us[each["tid"]] = each["ts"] + each["dur"]
