"""Steps of two stages as a pipeline of real machines could have made them."""

from __future__ import annotations

from edgeserve.frames.stage_time import StageTime
from edgeserve.timing.hop import Hop
from edgeserve.timing.ledger import StageLabel
from edgeserve.timing.observer import Step

LABELS = (
    StageLabel(stage=0, worker="10.0.0.1:50051", layers=(0, 2)),
    StageLabel(stage=1, worker="10.0.0.2:50051", layers=(2, 4)),
)


def step_at(frame: int, ordered_s: float) -> Step:
    """1 ms until it is sent; 10 ms of stage 0, of which it computes 6 and waits for 1; 1 ms in the
    gateway; 8 ms of stage 1, of which it computes 5; 1 ms until it is booked.
    """
    first, second = ordered_s + 0.001, ordered_s + 0.012
    hops = (
        Hop(
            stage=0, sent_s=first, returned_s=first + 0.010,
            inside=StageTime(queue_s=0.001, decode_s=0.0005, compute_s=0.006, encode_s=0.0005),
        ),
        Hop(
            stage=1, sent_s=second, returned_s=second + 0.008,
            inside=StageTime(compute_s=0.005, copy_out_s=0.001),
        ),
    )  # fmt: skip
    return Step(
        frame=frame,
        tokens=3,
        sequences=2,
        ordered_s=ordered_s,
        hops=hops,
        done_s=ordered_s + 0.021,
    )
