"""The one device of this worker: which, how much memory, how fast, and what it computes in."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from edgeserve.allowance import MemoryRoom, cores
from edgeserve.box import memory_room
from edgeserve.clock import Clock
from edgeserve.config import WorkerSettings
from edgeserve.cost.reserve import CPU_MEMORY_SHARE, CPU_RESERVE_BYTES, cuda_runtime_bytes
from edgeserve.families.spec import Dtype
from edgeserve.gpu import NvidiaDriver
from edgeserve.worker.cards import Card, card_named
from edgeserve.worker.cuda_device import CUDA, Cuda, OpenGpu, open_gpu
from edgeserve.worker.precision import keep_precision

log = logging.getLogger(__name__)

QUANTISED = (Dtype.INT8, Dtype.INT4)  # never chosen by itself: they change the answers


@dataclass(frozen=True, kw_only=True)
class Device:
    torch_device: torch.device
    name: str
    memory_bytes: int
    """For slice, pages and workspace together."""
    reserve_bytes: int
    memory_bytes_per_s: float
    """Measured by copying; 0 on a CPU, whose bandwidth is shared with whatever else runs."""
    dtypes: tuple[Dtype, ...]
    """The preferred first; those behind fp32 have to be asked for."""
    uuid: str = ""
    """The GPU's own, whichever process asks; empty for any other device."""
    card: Card | None = None
    """The one that it is paced like; None if it computes."""

    @property
    def kind(self) -> str:
        return "paced" if self.card else self.torch_device.type

    @property
    def simulation(self) -> str:
        """What has to be said beside every figure; empty if it computes."""
        return f"paced simulation: {self.card.name}" if self.card else ""

    def memory_free_bytes(self) -> int:
        """Now, whoever has the rest."""
        if self.torch_device.type == "cuda":
            return torch.cuda.mem_get_info(self.torch_device)[0]
        return memory_room().free_bytes


def open_device(
    settings: WorkerSettings, clock: Clock, driver: NvidiaDriver | None = None, cuda: Cuda = CUDA
) -> Device:
    """`driver` is NVIDIA's, as this box shows it.

    Raises BadSettings if the device that was asked for is not there, or if there is a GPU that
    cannot be used and no word that the CPU is meant; EdgeserveError if the GPU does not come up.
    """
    if settings.pace:
        return _paced(settings)
    if settings.device != "cpu":
        gpu = open_gpu(settings, clock, driver or NvidiaDriver(), cuda)
        if gpu is not None:
            return _cuda(gpu)
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), cores()))
    return Device(
        torch_device=torch.device("cpu"),
        name=f"{cores()} cores",
        memory_bytes=cpu_memory_bytes(settings.memory, memory_room()),
        reserve_bytes=CPU_RESERVE_BYTES,
        memory_bytes_per_s=0.0,
        dtypes=(*_cpu_dtypes(), *QUANTISED),
    )


def cpu_memory_bytes(asked: int, room: MemoryRoom) -> int:
    """What was asked for, if a limit that holds for this process leaves as much; 0 asks for a share
    of what is free.
    """
    limit = room.tightest
    if not asked:
        return int(CPU_MEMORY_SHARE * room.free_bytes)
    if limit is None or asked <= limit.free_bytes:
        return asked
    log.warning(
        "--memory asks for %.1f GB, and %.1f GB is all that this process can have (%s); it takes "
        "these", asked / 1e9, limit.free_bytes / 1e9, limit,
    )  # fmt: skip
    return limit.free_bytes


def _cuda(gpu: OpenGpu) -> Device:
    keep_precision()
    return Device(
        torch_device=gpu.torch_device,
        name=gpu.name,
        memory_bytes=gpu.memory_bytes,
        reserve_bytes=gpu.reserve_bytes,
        memory_bytes_per_s=gpu.memory_bytes_per_s,
        dtypes=(Dtype.FP16, Dtype.BF16, *QUANTISED, Dtype.FP32),
        uuid=gpu.uuid,
    )


def _paced(settings: WorkerSettings) -> Device:
    """A card that is not here, as CUDA would show it."""
    card = card_named(settings.pace)
    return Device(
        torch_device=torch.device("cpu"),
        name=f"{card.name} (paced simulation)",
        memory_bytes=min(settings.memory or card.memory_bytes, card.memory_bytes),
        reserve_bytes=cuda_runtime_bytes(context_counts=True),
        memory_bytes_per_s=card.read_bytes_per_s,
        dtypes=(Dtype.FP16, Dtype.BF16, Dtype.FP32),
        card=card,
    )


def _cpu_dtypes() -> tuple[Dtype, ...]:
    """bf16 comes first where there are instructions for it, and the libraries use them; elsewhere
    weights of 16 bits are only held and read as such, and computed with in fp32.
    """
    capability = torch.cpu.get_capabilities()
    has_bf16 = any(capability.get(each) for each in ("avx512_bf16", "amx_bf16", "bf16"))
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if has_bf16 and has_onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return Dtype.BF16, Dtype.FP32, Dtype.FP16
    return Dtype.FP32, Dtype.BF16, Dtype.FP16
