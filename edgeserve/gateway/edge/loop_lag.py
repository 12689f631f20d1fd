"""How late the gateway's event loop comes to what is due: what all of its clients wait for at once.

A loop that one request keeps busy is late for the tokens of all others, and no request's own
receipt can tell. So an appointment is made every now and then, and how late it is kept is noted.
"""

from __future__ import annotations

import asyncio

from edgeserve.clock import Clock
from edgeserve.timing.histogram import Histogram

PERIOD_S = 0.05
LAG_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""From what a quiet loop shows to what a client notices."""


class LoopLag:
    def __init__(self) -> None:
        self.histogram = Histogram(LAG_S)
        """In seconds."""

    async def watch(self, clock: Clock) -> None:
        """Until cancelled, on the loop that is meant."""
        while True:
            due_s = clock.now_s() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self.histogram.observe(max(0.0, clock.now_s() - due_s))
