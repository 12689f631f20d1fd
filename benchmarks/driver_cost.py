"""What the gateway's own thinking costs per step: `python -m benchmarks.driver_cost`.

One call of the driver from a frame's return to the next frame's bytes: receipts booked, tokens
handed on, drafts looked up, pages named, the next step scheduled and encoded. The relay and the
stages are stand-ins that do nothing, so nothing else is in the figure. Time is that of the
processor spent on it, so that a busy machine does not count: until the frame leaves, which is what
a step waits for, and in all.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence

from edgeserve.clock import MonotonicClock
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Order
from edgeserve.pipeline.relay import Relay, Trip
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.wire.codec import decode_frame, with_payload
from edgeserve.wire.frame import Frame, Sampled

STAGES = 3
STEPS = 400
PROMPT_TOKENS = 500
VOCAB = 32_000


class IdleRelay(Relay):
    """Keeps the frames."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(
        self, _number: int, _tokens: int, head: bytes, payload: bytes, masks: bytes = b""
    ) -> None:
        self.frames.append(with_payload(head + masks, payload))


def main() -> None:
    print("sequences  microseconds until the frame leaves (median, 90 %)  in all (median, 90 %)")
    for sequences in (1, 8, 24):
        found = zip(*asyncio.run(measure(sequences)), strict=True)
        print(f"{sequences:9}  {'  '.join(_figures(step_us) for step_us in found)}")


def _figures(step_us: Sequence[float]) -> str:
    return f"{statistics.median(step_us):.0f}, {statistics.quantiles(step_us, n=10)[-1]:.0f}"


async def measure(sequences: int) -> list[tuple[float, float]]:
    """Microseconds until the frame leaves and in all, of steps in which all sequences decode."""
    draw = random.Random(0)
    limits = Limits(
        stages=STAGES, processors=STAGES, pages=100_000, context_tokens=4096, micro_batches=1
    )
    labels = tuple(StageLabel(stage=i, worker=f"10.0.0.{i}:1", layers=(i, i + 1)) for i in range(3))
    loop = asyncio.get_running_loop()
    driver, relay = Driver(Scheduler(limits), labels, MonotonicClock(), loop), IdleRelay()
    driver.stages_ready(relay)
    for _ in range(sequences):
        driver.arrived(_order(draw))
    step_us: list[tuple[float, float]] = []
    while len(step_us) < STEPS:
        frame = decode_frame(relay.frames.pop(0))
        trip = _trip(frame, draw)
        start_s = time.thread_time()
        driver.trip_done(trip)
        left_s = time.thread_time()
        driver._deliver()
        took_s = left_s - start_s, time.thread_time() - start_s
        await asyncio.sleep(0)
        if len(frame.segments) == sequences and frame.tokens < 17 * sequences:
            step_us.append((1e6 * took_s[0], 1e6 * took_s[1]))
    return step_us


def _order(draw: random.Random) -> Order:
    return Order(
        prompt=tuple(draw.choices(range(VOCAB), k=PROMPT_TOKENS)),
        max_new_tokens=3000,
        sampling=Sampling(),
        stop_ids=frozenset({2}),
        received_s=0.0,
    )


def _trip(frame: Frame, draw: random.Random) -> Trip:
    """Back from three stages that took no time, with tokens that are as good as any."""
    now_s = MonotonicClock().now_s()
    hops = [Hop(stage=i, sent_s=now_s, returned_s=now_s, inside=StageTime()) for i in range(STAGES)]
    return Trip(frame=frame.frame, hops=tuple(hops), sampled=_sampled(frame, draw), failure=None)


def _sampled(frame: Frame, draw: random.Random) -> tuple[Sampled, ...]:
    asked: Sequence[int] = [s.sequence for s in frame.segments for _ in range(s.samples)]
    return tuple(Sampled(sequence=s, token=draw.randrange(3, VOCAB), logprob=-1.0) for s in asked)


if __name__ == "__main__":
    main()
