"""Rows and reports as a cluster of three boxes might give them, without one."""

from __future__ import annotations

from collections.abc import Sequence

from edgeserve.probe.cluster import Cluster
from edgeserve.probe.load import Refusal, Shape
from edgeserve.probe.receipt import StageTimes, Times
from edgeserve.probe.report import ProbeReport
from edgeserve.probe.rows import Measured, Percentiles, Refused, Row
from edgeserve.probe.verdict import judge

SHAPE = Shape(input_tokens=32, output_tokens=64)
CLUSTER = Cluster(
    model="llama-2-13b",
    dtype="fp16",
    weights="random",
    simulation=None,
    pages=548,
    page_tokens=16,
    stages=tuple(
        {
            "stage": i,
            "worker": f"box{i}:50051",
            "device": "cuda",
            "device_name": "NVIDIA GeForce RTX 3060",
            "layers": layers,
            "compute_ms": 23.5 + i,
            "transfer_ms": 0.4,
        }
        for i, layers in enumerate(([0, 13], [13, 27], [27, 40]))
    ),
)


def token(
    compute_ms: float = 72.0,
    transfer_ms: float = 1.5,
    waiting_ms: float = 0.0,
    other_ms: float = 1.5,
) -> Times:
    return Times(
        total_ms=compute_ms + transfer_ms + waiting_ms + other_ms,
        compute_ms=compute_ms,
        transfer_ms=transfer_ms,
        waiting_ms=waiting_ms,
        other_ms=other_ms,
    )


def row(batch: int, times: Times | None = None, **changes: object) -> Measured:
    """A batch of which every token takes what `times` says."""
    times = times or token()
    tpot_ms = times.total_ms
    values: dict[str, object] = {
        "batch": batch,
        "output_tok_s": batch * 1e3 / (tpot_ms * 1.02),
        "tok_s_per_user": 1e3 / tpot_ms,
        "ttft_ms": Percentiles(p50=130.0 + 20 * batch, p99=140.0 + 20 * batch),
        "tpot_ms": Percentiles(p50=tpot_ms, p99=tpot_ms + 1.25),
        "token": times,
        "at_once": batch,
        "kv_tokens_in_use": 96 * batch,
        "discrepancy": 0.0004,
        "prompt_tokens": (32, 32),
        "answer_tokens": (64, 64),
        "stages": stages(1530.0, 1700.0, 1540.0),
        "tokens_per_lap": 1.0,
    }
    return Measured(**{**values, **changes})  # type: ignore[arg-type]  # one dict of all kinds


def stages(*compute_ms: float) -> tuple[StageTimes, ...]:
    return tuple(
        StageTimes(stage=i, worker=f"box{i}:50051", compute_ms=ms)
        for i, ms in enumerate(compute_ms)
    )


def oom(batch: int) -> Refused:
    reason = f"{batch} of {batch} requests: 503: CUDA out of memory on stage 1"
    return Refused(batch=batch, refusal=Refusal(status="oom", reason=reason))


def report(rows: Sequence[Row]) -> ProbeReport:
    return ProbeReport(
        cluster=CLUSTER,
        shape=SHAPE,
        runs=3,
        rows=tuple(rows),
        verdict=judge(rows, SHAPE, CLUSTER),
    )
