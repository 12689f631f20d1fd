"""A loop that something holds up is seen to be late."""

from __future__ import annotations

import asyncio
import time

from edgeserve.clock import MonotonicClock
from edgeserve.gateway.edge.loop_lag import PERIOD_S, LoopLag

HELD_S = 0.12


async def test_a_loop_that_is_held_up_is_late_by_so_much() -> None:
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch(MonotonicClock()))
    await asyncio.sleep(0)
    time.sleep(PERIOD_S + HELD_S)  # noqa: ASYNC251  # the fault that is to be seen
    await asyncio.wait_for(_observed(lag), timeout=5)
    watching.cancel()
    assert lag.histogram.sum >= HELD_S
    assert lag.histogram.at_most()[lag.histogram.bounds.index(0.1)] == 0


async def _observed(lag: LoopLag) -> None:
    while lag.histogram.at_most()[-1] == 0:
        await asyncio.sleep(0)
