"""What can be told of the machine this runs on without PyTorch: versions, driver, memory, disk.

Versions come from the packages' own metadata, the GPU from nvidia-smi, memory from the kernel. It
knows no model and no other machine, and judges nothing.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgeserve.allowance import PROC, MemoryRoom, memory_limits
from edgeserve.errors import EdgeserveError

NONE = "none"
"""Of a version: it is not installed."""
NVIDIA_SMI_S = 5.0
"""It takes 2 s where it has to wake the driver first, and for ever on a card that fell off its bus.
"""
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Box:
    """A machine, as far as it matters to a worker."""

    python_version: str
    torch_version: str
    """As its metadata says, '2.13.0+cpu'; `NONE` without PyTorch."""
    driver_version: str
    """NVIDIA's; `NONE` without one."""
    memory_free_bytes: int
    """Now: the machine's, or, of a worker, its device's."""
    disk_free_bytes: int
    """Where the model's folder lies."""
    memory_limit_bytes: int = 0
    """The tightest that holds for this process, as its container's; 0 if the machine ends first."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first one, which is the one that a worker takes."""

    name: str
    driver_version: str
    memory_free_bytes: int


def look_at_box(folder: Path, gpu: Gpu | None) -> Box:
    """`folder` need not be there: then its disk is that of the first folder above it that is.

    Raises EdgeserveError on a machine that is no Linux.
    """
    room = memory_room()
    return Box(
        python_version=platform.python_version(),
        torch_version=_version_of("torch"),
        driver_version=gpu.driver_version if gpu else NONE,
        memory_free_bytes=room.free_bytes,
        memory_limit_bytes=room.tightest.limit_bytes if room.tightest else 0,
        disk_free_bytes=_disk_free_bytes(folder),
    )


def first_gpu() -> Gpu | None:
    """None without a GPU, without its driver, or with one that does not answer in time."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = "--query-gpu=name,driver_version,memory.free"
    try:
        told = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=NVIDIA_SMI_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_gpu(told.stdout)


def parse_gpu(csv: str) -> Gpu | None:
    """The first line of 'NVIDIA GeForce RTX 3060, 550.54.14, 11909', its memory in MiB."""
    found = re.match(r"(.+?), *([\d.]+), *(\d+)\s*$", csv, re.MULTILINE)
    if found is None:
        return None
    name, driver_version, free_mib = found.groups()
    return Gpu(name=name, driver_version=driver_version, memory_free_bytes=int(free_mib) * MIB)


def memory_room(proc: Path = PROC) -> MemoryRoom:
    """What this process could still have.

    Raises EdgeserveError on a machine that is no Linux.
    """
    machine_bytes = memory_free_bytes(proc / "meminfo")
    return MemoryRoom(machine_bytes=machine_bytes, limits=memory_limits(proc))


def memory_free_bytes(meminfo: Path) -> int:
    """What all programs together could still have without swapping, by the kernel's own
    estimate.
    """
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise EdgeserveError(f"{meminfo} does not say how much memory is free; is this a Linux?")
    return int(found[1]) * 1024


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return NONE


def _disk_free_bytes(folder: Path) -> int:
    there = folder.expanduser().absolute()
    while not os.access(there, os.F_OK):  # nor what lies in a folder that is closed to us
        there = there.parent
    return shutil.disk_usage(there).free
