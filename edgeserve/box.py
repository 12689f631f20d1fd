"""What can be told of the machine this runs on without PyTorch: versions, driver, memory, disk.

Versions come from the packages' own files, memory from the kernel. It knows no model and no other
machine, and judges nothing; `gpu.py` looks at the driver.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from edgeserve.allowance import PROC, MemoryRoom, memory_limits
from edgeserve.errors import EdgeserveError
from edgeserve.gpu import NONE, Torch

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Box:
    """A machine, as far as it matters to a worker."""

    python_version: str
    torch_version: str
    """As '2.13.0+cu130'; `NONE` without PyTorch."""
    driver_version: str
    """NVIDIA's; `NONE` without one."""
    memory_free_bytes: int
    """Now: the machine's, or, of a worker, its device's."""
    disk_free_bytes: int
    """Where the model's folder lies."""
    memory_limit_bytes: int = 0
    """The tightest that holds for this process, as its container's; 0 if the machine ends first."""


def look_at_box(folder: Path, driver_version: str = NONE) -> Box:
    """`folder` need not be there: then its disk is that of the first folder above it that is.

    Raises EdgeserveError on a machine that is no Linux.
    """
    room = memory_room()
    return Box(
        python_version=platform.python_version(),
        torch_version=installed_torch().version,
        driver_version=driver_version,
        memory_free_bytes=room.free_bytes,
        memory_limit_bytes=room.tightest.limit_bytes if room.tightest else 0,
        disk_free_bytes=_disk_free_bytes(folder),
    )


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


def installed_torch() -> Torch:
    """As PyTorch's own file says it: what an index calls 2.13.0 may be 2.13.0+cu130."""
    try:
        installed = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return Torch(version=NONE, cuda=None)
    try:
        told = Path(str(installed.locate_file("torch/version.py"))).read_text()
    except OSError:
        told = ""
    version = re.search(r"^__version__ *= *'(.+)'", told, re.MULTILINE)
    cuda = re.search(r"^cuda\b.*= *'([\d.]+)'", told, re.MULTILINE)
    return Torch(version=version[1] if version else installed.version, cuda=cuda and cuda[1])


def _disk_free_bytes(folder: Path) -> int:
    there = folder.expanduser().absolute()
    while not os.access(there, os.F_OK):  # nor what lies in a folder that is closed to us
        there = there.parent
    return shutil.disk_usage(there).free
