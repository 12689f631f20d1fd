"""Measures the device without holding it up.

On a CPU a mark is a reading of the clock. On a GPU it is an event in the stream, read after the
fact; recording one costs a microsecond or two and waits for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from edgeserve.clock import Clock

SLEEP_S = 5e-3
"""What takes longer is waited for asleep. CUDA otherwise spins, which costs a core for as long as
the device computes, and a box with two has a gateway to run, too. To be woken takes 0.05 ms, by an
estimate that no card has confirmed yet; a virtual machine's own timer came 0.2 ms late
(docs/LOG.md). Of 5 ms that is 1 to 4 %. By the same arithmetic a 3060 with a third of a 13B model,
28 ms for a token, sleeps, and an H200 with the same, 3 ms, spins."""


@dataclass(kw_only=True)
class Stopwatch:
    """Marks in order; `laps_s` are the times between them, once the last one is past."""

    clock: Clock
    cuda: bool
    sleeps: bool = False
    """Whether `wait` leaves its core to others meanwhile, and takes a wake-up longer."""
    first_mark_s: float = 0.0
    """On the clock: until then the frame was prepared, and the device had nothing of it."""
    _marks: list[Any] = field(default_factory=list)

    def mark(self) -> None:
        if not self._marks:
            self.first_mark_s = self.clock.now_s()
        if not self.cuda:
            self._marks.append(self.clock.now_s())
            return
        event = torch.cuda.Event(  # type: ignore[no-untyped-call]
            enable_timing=True, blocking=self.sleeps
        )
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
