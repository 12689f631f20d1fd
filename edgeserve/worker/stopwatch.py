"""Measures the device without holding it up.

On a CPU a mark is a reading of the clock. On a GPU it is an event in the stream, read after the
fact; recording one costs a microsecond or two and waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from edgeserve.clock import Clock


@dataclass(kw_only=True)
class Stopwatch:
    """Marks in order; `laps_s` are the times between them, once the last one is past."""

    clock: Clock
    cuda: bool
    first_mark_s: float = 0.0
    """On the clock: until then the frame was prepared, and the device had nothing of it."""
    _marks: list[Any] = field(default_factory=list)

    def mark(self) -> None:
        if not self._marks:
            self.first_mark_s = self.clock.now_s()
        if not self.cuda:
            self._marks.append(self.clock.now_s())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        self._marks.append(event)

    def wait(self) -> None:
        """Returns when the device is past the last mark."""
        if self.cuda:
            self._marks[-1].synchronize()

    def laps_s(self) -> list[float]:
        pairs = zip(self._marks, self._marks[1:], strict=False)
        if self.cuda:
            return [start.elapsed_time(end) / 1e3 for start, end in pairs]
        return [end - start for start, end in pairs]
