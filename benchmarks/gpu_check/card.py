"""The card alone: what it is, how fast its memory is, what a context takes, what launching, filling
a frame's table and waking up behind an event cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check.setup import Setup
from benchmarks.gpu_check.timing import (
    copy_bytes_per_s,
    events_s,
    host_s,
    open_torch_device,
    recorded_s,
    wait_for,
)
from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.families.folder import open_model
from edgeserve.families.spec import ModelSpec
from edgeserve.gpu import look_at_driver
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import DECODE_QUERIES, Extent, empty_table, pages_each, tiles_of
from edgeserve.worker.device import open_device
from edgeserve.worker.graphs import GraphRecorder

Row = dict[str, Any]

CALLS = 200
NODES = 400
"""Of the graph whose launch is timed: as many as a third of a 13B model has."""
SLEEPS_MS = (2, 25)
"""A token's time on a third of a 13B model: an H200's and an RTX 3060's."""
ANSWER_S = 30.0
CONTEXT = """
import sys, torch
torch.cuda.init()
torch.cuda.synchronize()
def tell():
    torch.cuda.synchronize()
    print(torch.cuda.memory_reserved(), flush=True)
    sys.stdin.readline()
tell()
x = torch.zeros(1024, 1024, dtype=torch.float16, device="cuda")
x @ x
tell()
"""
"""What a process with a context says: what its allocator has, before and after a first product."""


def measure(setup: Setup, _argument: str) -> Iterator[Row]:
    device = open_torch_device(setup.device)
    yield facts(device)
    yield {"copy_gb_s": round(copy_bytes_per_s(device) / 1e9, 1)}
    opened = open_device(WorkerSettings(device=setup.device), MonotonicClock())
    yield {"worker_says_gb_s": round(opened.memory_bytes_per_s / 1e9, 1)}
    yield from launches(device)
    yield from fills(setup, device)
    if device.type == "cuda":
        yield from contexts()
        yield from wake_ups(device)
        yield copies(device)
    else:
        yield {"left_out": "context, events and copies to a card: a CPU has none"}


def facts(device: torch.device) -> Row:
    if device.type != "cuda":
        return {"torch": torch.__version__}
    found = torch.cuda.get_device_properties(device)
    driver = look_at_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))
    return {
        "capability": f"{found.major}.{found.minor}",
        "processors": found.multi_processor_count, "memory_bytes": found.total_memory,
        "l2_bytes": found.L2_cache_size, "torch": torch.__version__, "cuda": torch.version.cuda,
        "driver": driver.version,
    }  # fmt: skip


# -- launching


def launches(device: torch.device) -> Iterator[Row]:
    """On the host: a kernel by itself, and a graph of many. On the device: a node of a graph that
    does nearly nothing.
    """
    x = torch.zeros(1024, device=device)
    wait_for(device)
    yield {"eager_launch_us": _us(host_s(lambda: x.add_(1.0), CALLS))}
    wait_for(device)

    def nodes() -> None:
        for _ in range(NODES):
            x.add_(1.0)

    yield {"graph_node_us": _us(recorded_s(nodes, device) / NODES)}
    if device.type == "cuda":
        yield {"graph_launch_us": _us(_graph_launch_s(nodes, device)), "nodes": NODES}


def _graph_launch_s(nodes: Any, device: torch.device) -> float:
    """With an idle device each time, as between two hops."""
    replay, taken_s = GraphRecorder(device).record(nodes), []
    for _ in range(20):
        wait_for(device)
        taken_s.append(host_s(replay, 1))
    wait_for(device)
    return sorted(taken_s)[len(taken_s) // 2]


# -- a frame's table


def fills(setup: Setup, device: torch.device) -> Iterator[Row]:
    spec = open_model(setup.model).spec
    for rows in setup.rows:
        taken_s = host_s(partial(fill, spec, rows, device), 20)
        yield {"fill_rows": rows, "fill_us": _us(taken_s)}


def fill(spec: ModelSpec, rows: int, device: torch.device) -> None:
    """What the host does before a frame of decodes can start, without its copies."""
    keys = min(1024, spec.context_tokens - 1)
    pages = tuple(range(keys // 16 + 1))
    segments = [PagedSegment(pages, keys, 1) for _ in range(rows)]
    extent = Extent(
        rows=rows, asked=rows, tiles=rows, tile_queries=DECODE_QUERIES, parts=1, segments=rows,
        pages_each=pages_each(spec.context_tokens, 600),
    )  # fmt: skip
    table = empty_table(extent, "cpu", pinned=device.type == "cuda")
    table.fill(segments, range(rows), tiles_of(segments, 1))


# -- a context, and waking up


def contexts() -> Iterator[Row]:
    """By how much the card's free memory shrinks for a process, its allocator's share taken off.
    Other programs on the card must not change theirs meanwhile.
    """
    before = torch.cuda.mem_get_info()[0]
    child = subprocess.Popen(
        [sys.executable, "-c", CONTEXT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin
    assert child.stdout
    try:
        for name in ("context_bytes", "context_with_cublas_bytes"):
            reserved = int(child.stdout.readline())
            free = torch.cuda.mem_get_info()[0]
            yield {name: before - free - reserved, "allocator_bytes": reserved}
            child.stdin.write("\n")
            child.stdin.flush()
    finally:
        child.stdin.close()
        child.wait(ANSWER_S)


def wake_ups(device: torch.device) -> Iterator[Row]:
    """From the end of the device's work until the host goes on, and how much of the wait the host
    computes: an event that blocks sleeps, one that does not spins.
    """
    cycles_a_s = 10**7 / events_s(lambda: _sleep(10**7))
    for ms in SLEEPS_MS:
        for blocking in (False, True):
            tries = [_wake_up(int(cycles_a_s * ms / 1e3), blocking) for _ in range(15)]
            late_s, busy = sorted(tries)[len(tries) // 2]
            yield {"wait_ms": ms, "blocking": blocking, "late_us": _us(late_s),
                   "host_busy": round(busy, 2)}  # fmt: skip
    wait_for(device)


def _wake_up(cycles: int, blocking: bool) -> tuple[float, float]:
    """Seconds too late, launch included; and the share of a core."""
    start, end = (
        torch.cuda.Event(enable_timing=True, blocking=blocking)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    torch.cuda.synchronize()
    wall_s, busy_s = time.perf_counter(), time.thread_time()
    start.record()
    _sleep(cycles)
    end.record()
    end.synchronize()
    wall_s, busy_s = time.perf_counter() - wall_s, time.thread_time() - busy_s
    return wall_s - float(start.elapsed_time(end)) / 1e3, busy_s / wall_s


def _sleep(cycles: int) -> None:
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]


def copies(device: torch.device) -> Row:
    """One token's hidden states of a 13B model, to the card and back, pinned."""
    here = torch.zeros(5120, dtype=torch.float16, pin_memory=True)
    there = here.to(device)
    times = 50

    def both() -> None:
        for _ in range(times):
            there.copy_(here, non_blocking=True)
            here.copy_(there, non_blocking=True)

    both()
    return {"copy_in_and_out_us": _us(events_s(both) / times)}


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 1)
