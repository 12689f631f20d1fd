"""The one device of this worker: which, how much memory, how fast, and what it computes in."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from edgeserve.allowance import MemoryRoom, cores
from edgeserve.box import memory_room
from edgeserve.clock import Clock
from edgeserve.config import WorkerSettings
from edgeserve.errors import BadSettings
from edgeserve.families.spec import Dtype
from edgeserve.plan.reserve import CPU_MEMORY_SHARE, CUDA_CONTEXT_BYTES, reserve_bytes
from edgeserve.worker.cards import Card, card_named

log = logging.getLogger(__name__)

COPY_BYTES = 256 * 2**20  # far above any cache, and a few milliseconds on a card
BF16_CAPABILITY = (8, 0)  # the first CUDA capability that multiplies bf16


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


def open_device(settings: WorkerSettings, clock: Clock) -> Device:
    """Raises BadSettings if the device that was asked for is not there."""
    if settings.pace:
        return _paced(settings)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadSettings(
            "--device cuda: this machine shows PyTorch no GPU; check the driver (nvidia-smi) "
            "and that "
            "PyTorch was installed with CUDA, or use --device cpu"
        )
    if settings.device != "cpu" and torch.cuda.is_available():
        return _cuda(settings, clock)
    torch.set_num_threads(settings.threads or min(torch.get_num_threads(), cores()))
    return Device(
        torch_device=torch.device("cpu"),
        name=f"{cores()} cores",
        memory_bytes=cpu_memory_bytes(settings.memory, memory_room()),
        reserve_bytes=reserve_bytes("cpu"),
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


def _cuda(settings: WorkerSettings, clock: Clock) -> Device:
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    if settings.memory:
        # The context counts as ours, too: what nvidia-smi shows stays below --memory.
        own_bytes = max(0, settings.memory - CUDA_CONTEXT_BYTES)
        torch.cuda.set_per_process_memory_fraction(min(1.0, own_bytes / total_bytes))
    bf16 = torch.cuda.get_device_capability(device) >= BF16_CAPABILITY
    return Device(
        torch_device=device,
        name=torch.cuda.get_device_name(device),
        memory_bytes=min(settings.memory or free_bytes, total_bytes),
        reserve_bytes=reserve_bytes("cuda"),
        memory_bytes_per_s=_copy_bytes_per_s(device, clock),
        dtypes=(Dtype.FP16, *([Dtype.BF16, *QUANTISED] if bf16 else []), Dtype.FP32),
        uuid=str(torch.cuda.get_device_properties(device).uuid),
    )


def _paced(settings: WorkerSettings) -> Device:
    """A card that is not here, as CUDA would show it."""
    card = card_named(settings.pace)
    return Device(
        torch_device=torch.device("cpu"),
        name=f"{card.name} (paced simulation)",
        memory_bytes=min(settings.memory or card.memory_bytes, card.memory_bytes),
        reserve_bytes=reserve_bytes("cuda"),
        memory_bytes_per_s=card.read_bytes_per_s,
        dtypes=(Dtype.FP16, Dtype.BF16, Dtype.FP32),
        card=card,
    )


def _copy_bytes_per_s(device: torch.device, clock: Clock) -> float:
    """Bytes read plus bytes written, per second, of a device-to-device copy; the best of five."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    torch.cuda.synchronize(device)
    best_s = float("inf")
    for _ in range(5):
        start_s = clock.now_s()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best_s = min(best_s, clock.now_s() - start_s)
    del source, target
    torch.cuda.empty_cache()
    return 2 * COPY_BYTES / best_s


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
