"""What this machine shows of NVIDIA's cards and driver without PyTorch, and whether PyTorch can
use it.

Asked of nvidia-smi and the kernel. On Windows' Linux (WSL2) the kernel shows no driver and
nvidia-smi does; in a container that was given no GPU it is the other way round.

The oldest driver for each CUDA is NVIDIA's own rule: a driver runs every minor version of its
major one, with PyTorch's compiled kernels as with any, and all earlier ones (table 1 of
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html).

Not covered: NVIDIA's packages for forward compatibility, with which a data centre's card runs a
newer CUDA than its driver: where PyTorch shows a GPU, nothing here is asked; and cards of one
capability and unlike speed, which CUDA counts by speed and nvidia-smi by slot.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

NONE = "none"
"""Of a version: it is not installed."""
NVIDIA_SMI_S = 20.0
"""Where nothing keeps the driver awake it wakes each card first, a second or two for each, of which
there may be eight (by what is told of it, not measured). On a card that fell off its bus it takes
for ever.
"""
END_S = 1.0
"""For it to be ended, which takes milliseconds where it is possible."""
KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
DEVICE_NODES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
"""Of which a process that may use a GPU sees one: the second is that of Windows' Linux."""
MIB = 2**20
QUERY = "name,driver_version,memory.free,uuid,mig.mode.current"
FORMAT = ("--format=csv,noheader,nounits",)
QUERIES = (f"{QUERY},compute_cap", QUERY)
"""The second for drivers before 510, which do not know the last word of the first."""
ROW = re.compile(
    r"(?P<name>.+?), *(?P<driver>\d[\d.]*), *(?P<free>\d+|\[.*?\]), *(?P<uuid>\S+?)"
    r", *(?P<mig>\[.*?\]|\w+)(?:, *(?:(?P<major>\d+)\.(?P<minor>\d+)|\[.*?\]))?\s*$"
)

DRIVER_MIN = {11: 450, 12: 525, 13: 580}
"""The oldest driver, by the major version of CUDA."""
CAPABILITY_MIN = (8, 0)
"""Ampere's: the first with bf16 and with the asynchronous copies that the kernels' loads become."""
OLDER_BUILDS = {12: "cu126"}
"""Of PyTorch that are made for an older CUDA, by its major version: the name of its index."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The one that a worker takes: the first that CUDA shows."""

    name: str
    driver_version: str
    memory_free_bytes: int
    """0 where it is not told, as of a part of a card (MIG)."""
    capability: tuple[int, int] | None = None
    """CUDA's compute capability; None from drivers that do not tell."""
    uuid: str = ""


@dataclass(frozen=True, kw_only=True)
class NvidiaDriver:
    """What the machine shows of NVIDIA's."""

    version: str = NONE
    gpu: Gpu | None = None
    said: str = ""
    """Of nvidia-smi, where it shows no GPU."""
    is_reachable: bool = True
    """Whether this process sees a file by which a GPU is used; a container may see none."""
    is_hidden: bool = False
    """Whether `CUDA_VISIBLE_DEVICES` says that no GPU is to be used."""

    @property
    def is_there(self) -> bool:
        return self.version != NONE


def look_at_driver(
    visible: str | None = None, *, by_slot: bool = False, kernel_driver: Path = KERNEL_DRIVER
) -> NvidiaDriver:
    """`visible` is what `CUDA_VISIBLE_DEVICES` says, None for nothing; `by_slot` is whether CUDA is
    told to count cards as nvidia-smi does.
    """
    version = _kernel_drivers_version(kernel_driver)
    if _hides_all(visible):
        return NvidiaDriver(version=version, is_hidden=True)
    csv, said = _ask_nvidia_smi()
    gpus = parse_gpus(csv)
    if not by_slot:
        gpus = fastest_first(gpus)
    if not gpus:  # nvidia-smi makes the file where it may: look after it was asked
        is_reachable = any(each.exists() for each in DEVICE_NODES)
        return NvidiaDriver(version=version, said=said, is_reachable=is_reachable)
    gpu = first_shown(gpus, visible)
    if gpu is None:
        said = f"CUDA_VISIBLE_DEVICES={visible} names none of the {len(gpus)} that there are"
    return NvidiaDriver(version=gpus[0].driver_version, gpu=gpu, said="" if gpu else said)


def parse_gpus(csv: str) -> list[Gpu]:
    """Of lines as 'NVIDIA GeForce RTX 3060, 550.54.14, 11909, GPU-6b1c-..., [N/A], 8.6', memory in
    MiB, the last one only from newer drivers.
    """
    return [gpu for gpu in map(_parse_row, csv.splitlines()) if gpu]


def fastest_first(gpus: Sequence[Gpu]) -> list[Gpu]:
    """As CUDA counts them unless it is told otherwise, as far as their capability tells: an old
    card for the display comes last.
    """
    return sorted(gpus, key=lambda each: each.capability or (0, 0), reverse=True)


def first_shown(gpus: Sequence[Gpu], visible: str | None) -> Gpu | None:
    """The one that CUDA shows first; None if `visible` names another than these."""
    first = (visible or "0").split(",")[0].strip()
    if first.startswith("MIG-"):  # a part of one of them, and which is not told
        return replace(gpus[0], memory_free_bytes=0)
    return next((each for i, each in enumerate(gpus) if _names(first, i, each.uuid)), None)


def _names(visible: str, index: int, uuid: str) -> bool:
    """CUDA takes the beginning of a UUID, too."""
    return visible == str(index) or (visible.startswith("GPU-") and uuid.startswith(visible))


def _parse_row(line: str) -> Gpu | None:
    found = ROW.match(line)
    if found is None:
        return None
    is_whole = found["free"].isdigit() and found["mig"] != "Enabled"
    return Gpu(
        name=found["name"],
        driver_version=found["driver"],
        memory_free_bytes=int(found["free"]) * MIB if is_whole else 0,
        capability=(int(found["major"]), int(found["minor"])) if found["major"] else None,
        uuid=found["uuid"],
    )


def _hides_all(visible: str | None) -> bool:
    """CUDA stops at the first index that there is not."""
    return visible is not None and visible.split(",")[0].strip() in {"", "-1", "NoDevFiles"}


def _ask_nvidia_smi() -> tuple[str, str]:
    """Its answer; or, if it has none, the first line of what it said instead."""
    program = shutil.which("nvidia-smi")
    said = ""
    for query in QUERIES if program else ():
        try:
            code, out, err = _answer([str(program), f"--query-gpu={query}", *FORMAT])
        except subprocess.TimeoutExpired:
            return "", (
                f"nvidia-smi does not answer within {NVIDIA_SMI_S:.0f} s; the kernel's log "
                "(dmesg) may say why, and a restart of this machine help"
            )
        except OSError as error:
            return "", f"nvidia-smi cannot be started: {error.strerror}"
        if code == 0:
            return out, next(iter(out.splitlines()), "")
        said = said or next(iter(f"{out}{err}".strip().splitlines()), "")
    return "", said


def _answer(command: Sequence[str]) -> tuple[int, str, str]:
    """Exit code, output and errors. Raises TimeoutExpired, and does not wait for the end of what is
    ended then: a program that hangs in the driver cannot be.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, errors="replace",
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=NVIDIA_SMI_S)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
    return process.returncode, out, err


def _kernel_drivers_version(kernel_driver: Path) -> str:
    """Of 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 ...'."""
    try:
        found = re.search(r"Kernel Module\b.*?\s(\d+\.\d[\d.]*)\s", kernel_driver.read_text())
    except OSError:
        found = None
    return found[1] if found else NONE


# -- whether PyTorch can use it


@dataclass(frozen=True, kw_only=True)
class Torch:
    """A build of PyTorch."""

    version: str
    """As '2.13.0+cu130'; `NONE` if none is installed."""
    cuda: str | None
    """The CUDA that it is built for, as '13.0'; None for a build without."""


def torch_of(version: str) -> Torch | None:
    """What its version says of a build; None if it does not say for which CUDA it is."""
    found = re.search(r"\+(?:cpu|cu(\d+)(\d))$", version)
    if found is None:
        return None
    return Torch(version=version, cuda=f"{found[1]}.{found[2]}" if found[1] else None)


def why_not_usable(driver: NvidiaDriver, torch: Torch, box: str = "this box") -> str:
    """Why PyTorch cannot use a machine's GPU, and the cures; empty if nothing speaks against it or
    there is none to be used. `box` is how the sentence calls the machine.
    """
    if not driver.is_there or driver.is_hidden:
        return ""
    if driver.gpu and driver.gpu.capability:  # first: no other driver or build mends it
        why_not = why_not_capable(driver.gpu.name, driver.gpu.capability)
        if why_not:
            return why_not
    card = f" ({driver.gpu.name})" if driver.gpu else ""
    has = f"{box} has NVIDIA driver {driver.version}{card}"
    if torch.cuda is None:
        return (
            f"{has}, but PyTorch {torch.version} is a build without CUDA, so nothing can compute "
            f"on the GPU; {_build_for(driver.version)}, or say --device cpu to compute on the CPU"
        )
    needed = driver_needed(torch.cuda)
    if major(driver.version) < needed:
        return (
            f"{has}, and PyTorch {torch.version} is built for CUDA {torch.cuda}, which needs "
            f"driver {needed} or newer; {_cures(driver.version, torch.cuda)}"
        )
    if not driver.is_reachable:
        return (
            f"{has}, but is shown no GPU: there is no {DEVICE_NODES[0]}. A container has to be "
            "given the card (docker run --gpus all, or deploy/nvidia.yml with compose); elsewhere "
            "nvidia-smi makes the file, as root. Do so, or say --device cpu to compute on the CPU"
        )
    return ""


def why_not_capable(name: str, capability: tuple[int, int]) -> str:
    """Why the kernels do not run on a card of this compute capability; empty if they do."""
    if capability >= CAPABILITY_MIN:
        return ""
    has, needs = (f"{each[0]}.{each[1]}" for each in (capability, CAPABILITY_MIN))
    return (
        f"the {name} has compute capability {has}, and the GPU's kernels need {needs} (RTX 30xx, "
        "A100 and newer); use another card (CUDA_VISIBLE_DEVICES names it), or say --device cpu to "
        "compute on the CPU"
    )


def driver_needed(cuda: str) -> int:
    """The major version of the oldest driver for this CUDA; a newer CUDA than any that is known
    here needs at least as much as that.
    """
    return DRIVER_MIN[min(max(major(cuda), min(DRIVER_MIN)), max(DRIVER_MIN))]


def major(version: str) -> int:
    return int(version.split(".", maxsplit=1)[0])


def _cures(driver_version: str, torch_cuda: str) -> str:
    older = [
        f", or a PyTorch for CUDA {cuda} (its package index {index}), which runs with driver "
        f"{DRIVER_MIN[cuda]} and newer"
        for cuda, index in OLDER_BUILDS.items()
        if cuda < major(torch_cuda) and major(driver_version) >= DRIVER_MIN[cuda]
    ]
    return f"install a newer driver{''.join(older)}, or say --device cpu to compute on the CPU"


def _build_for(driver_version: str) -> str:
    """Which to install, with this driver."""
    newest = max(
        (cuda for cuda, oldest in DRIVER_MIN.items() if major(driver_version) >= oldest), default=0
    )
    if newest == max(DRIVER_MIN):
        return f"install a build for CUDA {newest}"
    if newest in OLDER_BUILDS:
        return f"install a build for CUDA {newest} (PyTorch's package index {OLDER_BUILDS[newest]})"
    needed = max(DRIVER_MIN)
    return f"install driver {DRIVER_MIN[needed]} or newer and a build for CUDA {needed}"
