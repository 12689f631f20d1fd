"""Times on the device: from CUDA events, of work that was recorded in a graph, so that neither
Python nor launching is in them. On a CPU, for the rehearsal, the clock's time of one run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from edgeserve.worker.graphs import GraphRecorder

REPLAYS = 5
COPY_BYTES = 2**30
"""Twenty times the largest L2 cache."""
COPIES = 10


def recorded_s(work: Callable[[], object], device: torch.device) -> float:
    """The median time of `work` as a graph. It must allocate nothing but from the allocator, and
    not look at results.
    """
    if device.type != "cuda":
        start_s = time.perf_counter()
        work()
        return time.perf_counter() - start_s
    replay = GraphRecorder(device).record(work)
    replay()
    return statistics.median(events_s(replay) for _ in range(REPLAYS))


def events_s(work: Callable[[], object]) -> float:
    """Between two events around it on the current stream, waited for."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read plus bytes written, of copies within the device's memory: the most that a program
    gets of it. 1e9 on a CPU, where nobody asks.
    """
    if device.type != "cuda":
        return 1e9
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(COPIES):
            target.copy_(source)

    copy()
    best_s = min(events_s(copy) for _ in range(REPLAYS))
    return 2 * COPY_BYTES * COPIES / best_s


def host_s(work: Callable[[], object], times: int) -> float:
    """The host's time for one of `times` calls; what the device still does is not waited for."""
    start_s = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start_s) / times


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def open_torch_device(kind: str) -> torch.device:
    """'cuda' is the first GPU, as for a worker."""
    if kind != "cuda":
        torch.set_num_threads(1)
        return torch.device("cpu")
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device
