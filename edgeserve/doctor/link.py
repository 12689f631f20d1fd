"""What the way to one worker costs: round trips of a token's bytes and of a prompt's.

By the worker's Echo call, so that neither device nor schedule takes part. It judges nothing;
`findings.py` does.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from edgeserve.clock import Timekeeper
from edgeserve.errors import StageUnavailable, WireError

TOKEN_BYTES = 5120 * 2  # a 13B model's hidden state in fp16
PROMPT_TOKENS = 128
PROMPT_BYTES = PROMPT_TOKENS * TOKEN_BYTES  # 1.3 MB
WARM_UP, HOT, IDLE, LARGE = 3, 21, 5, 5
"""Round trips of each kind: the connection's first ones do not count, and of the others the median
does, which of hot ones scatters most."""
IDLE_S = 0.25
"""Longer than a 13B model's token takes (75 ms), and than cores and network cards need to fall
asleep."""
ECHO_TIMEOUT_S = 5.0
LINK_TIMEOUT_S = 30.0
"""For all of them together. A link that needs more carries 0.5 MB/s."""


@dataclass(frozen=True, kw_only=True)
class Link:
    round_trip_s: float
    """Of TOKEN_BYTES, one after the other."""
    idle_round_trip_s: float
    """Of the same after IDLE_S of silence."""
    bytes_per_s: float
    """One way, of PROMPT_BYTES."""


class Echoing(Protocol):
    """What of `WorkerClient` is needed."""

    async def echo(self, payload: bytes, timeout_s: float) -> bytes: ...


Pause = Callable[[float], Awaitable[None]]


async def measure_link(worker: Echoing, clock: Timekeeper, pause: Pause = asyncio.sleep) -> Link:
    """Raises StageUnavailable if the worker stops answering, or is too slow to be measured."""
    try:
        async with asyncio.timeout(LINK_TIMEOUT_S):
            return await _measure(worker, clock, pause)
    except TimeoutError:
        raise StageUnavailable(
            f"{WARM_UP + HOT + IDLE} round trips of {TOKEN_BYTES // 1024} KB and {LARGE} of "
            f"{PROMPT_BYTES / 1e6:.1f} MB took more than {LINK_TIMEOUT_S:.0f} s"
        ) from None


async def _measure(worker: Echoing, clock: Timekeeper, pause: Pause) -> Link:
    async def round_trip_s(size_bytes: int, after_s: float = 0.0) -> float:
        if after_s:
            await pause(after_s)
        payload = bytes(size_bytes)
        start_s = clock.now_s()
        if await worker.echo(payload, ECHO_TIMEOUT_S) != payload:
            raise WireError("it sends back other bytes than it got; is it an edgeserve worker?")
        return clock.now_s() - start_s

    for _ in range(WARM_UP):
        await round_trip_s(TOKEN_BYTES)
    hot_s = [await round_trip_s(TOKEN_BYTES) for _ in range(HOT)]
    idle_s = [await round_trip_s(TOKEN_BYTES, IDLE_S) for _ in range(IDLE)]
    large_s = [await round_trip_s(PROMPT_BYTES) for _ in range(LARGE)]
    return Link(
        round_trip_s=statistics.median(hot_s),
        idle_round_trip_s=statistics.median(idle_s),
        bytes_per_s=2 * PROMPT_BYTES / statistics.median(large_s),
    )
