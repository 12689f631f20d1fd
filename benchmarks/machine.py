"""What the figures were measured on, and whether something else was running meanwhile.

A shared machine lends its memory's bandwidth to whoever asks. Decoding is bound by it, so a probe
before and after each turn tells a slow system from a disturbed one.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PROBE_BYTES = 2**29
"""Sixteen times the last-level cache of the machine that this was written on."""
TRIES = 3
STAT = Path("/proc/stat")
WATCH_S = 1.0
"""A hundred ticks of each core."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    processor: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str


@dataclass(frozen=True, kw_only=True)
class Bandwidth:
    """All cores together; the best of a few tries, since only less can be had by accident."""

    read_bytes_per_s: float
    copy_bytes_per_s: float
    """Bytes read plus bytes written."""
    load: float
    """Average of the last minute, in which the turn before has its part."""
    busy: float
    """Share of the cores that other programs used just before, when nothing of ours ran."""


def this_machine() -> Machine:
    return Machine(
        processor=_processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release(),
        python=platform.python_version(),
    )


def _processor(cpuinfo: str) -> str:
    """The model's name, and family and model, since virtual machines call many of them one name."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts.get('cpu family', '?')}, model {facts.get('model', '?')})"


def peak_rss_bytes(pid: int) -> int:
    """The most memory that a process has held so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure_bandwidth(threads: int) -> Bandwidth:
    """Two seconds or so. The buffers go with it: they are the measured system's memory."""
    load, _, _ = os.getloadavg()
    busy = _busy_share()
    source = np.ones(PROBE_BYTES // 4, dtype=np.float32)
    target = np.empty_like(source)
    target.fill(0)  # or the first copy would pay for the pages
    sources, targets = np.array_split(source, threads), np.array_split(target, threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(np.max, sources))

        def copy() -> None:
            list(pool.map(np.copyto, targets, sources))

        return Bandwidth(
            read_bytes_per_s=PROBE_BYTES / _best_s(read),
            copy_bytes_per_s=2 * PROBE_BYTES / _best_s(copy),
            load=load,
            busy=busy,
        )


def _busy_share() -> float:
    before = cpu_ticks(STAT.read_text(encoding="utf-8"))
    time.sleep(WATCH_S)
    after = cpu_ticks(STAT.read_text(encoding="utf-8"))
    busy, idle = after[0] - before[0], after[1] - before[1]
    return busy / max(1, busy + idle)


def cpu_ticks(stat: str) -> tuple[int, int]:
    """Busy and idle ones of all cores since the start; waiting for a disk is idle."""
    ticks = [int(each) for each in stat.splitlines()[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, idle


def _best_s(work: Callable[[], None]) -> float:
    def once_s() -> float:
        start_s = time.perf_counter()
        work()
        return time.perf_counter() - start_s

    return min(once_s() for _ in range(TRIES))
