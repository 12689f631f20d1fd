"""Opens the GPU of this worker and measures it, or says why that cannot be, and what to do.

`torch.cuda` is asked through `Cuda`, so that tests can put a card in its place that nobody has.
What PyTorch raises becomes a sentence here and nowhere else.

Not covered: what goes wrong on a card once it is open.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from edgeserve.clock import Clock
from edgeserve.config import WorkerSettings
from edgeserve.cost.reserve import CUDA_CONTEXT_BYTES, cuda_runtime_bytes
from edgeserve.errors import BadSettings, DoesNotFit, EdgeserveError
from edgeserve.gpu import NvidiaDriver, Torch, why_not_capable, why_not_usable

log = logging.getLogger(__name__)

COPY_BYTES = 256 * 2**20  # far above any cache, and a few milliseconds on a card
COPY_BYTES_MIN = 16 * 2**20
"""Below, a card's cache would be measured; and no model fits beside it."""
COPIES = 5
ON_CPU = "or say --device cpu to compute on the CPU"

CURES = {
    "version mismatch": "the driver was updated while it ran: restart this machine",
    "no kernel image": "install a PyTorch whose build has code for this card",
    "busy or unavailable": "another process has the card for itself: nvidia-smi shows which",
    "out of memory": "nvidia-smi shows who has the card's memory: end that process",
    "unknown error": "reload the driver's module (rmmod nvidia_uvm, then modprobe nvidia_uvm), or "
    "restart this machine",
    "not yet initialized": "start the service nvidia-fabricmanager",
    "ECC": "the card's memory is damaged: restart this machine, or replace the card",
}
"""By what an error says."""


class Cuda:
    """What opening a device needs of PyTorch. Methods are those of `torch.cuda` and raise what they
    raise; all are about the first device that CUDA shows.
    """

    device = torch.device("cuda", 0)
    build = Torch(version=torch.__version__, cuda=torch.version.cuda)

    def is_available(self) -> bool:
        with warnings.catch_warnings():
            # It says there why it is not, and `init` raises the same.
            warnings.simplefilter("ignore")
            return torch.cuda.is_available()

    def init(self) -> None:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.set_device(self.device)

    def name(self) -> str:
        return torch.cuda.get_device_name(self.device)

    def uuid(self) -> str:
        """The card's own, whichever process asks."""
        return str(torch.cuda.get_device_properties(self.device).uuid)

    def capability(self) -> tuple[int, int]:
        return torch.cuda.get_device_capability(self.device)

    def memory(self) -> tuple[int, int]:
        """Free and in all, in bytes."""
        return torch.cuda.mem_get_info(self.device)

    def limit_memory(self, share: float) -> None:
        torch.cuda.set_per_process_memory_fraction(share, self.device)

    def zeros(self, count: int) -> torch.Tensor:
        """So many bytes on the device."""
        return torch.zeros(count, dtype=torch.uint8, device=self.device)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)

    def empty_cache(self) -> None:
        torch.cuda.empty_cache()


CUDA = Cuda()


@dataclass(frozen=True, kw_only=True)
class OpenGpu:
    """A GPU that computes: it has copied memory already."""

    torch_device: torch.device
    name: str
    uuid: str
    memory_bytes: int
    """What may be used of it; with --memory, the CUDA context included."""
    reserve_bytes: int
    """Of it, for the runtime."""
    memory_bytes_per_s: float


def open_gpu(
    settings: WorkerSettings, clock: Clock, driver: NvidiaDriver, cuda: Cuda = CUDA
) -> OpenGpu | None:
    """None where this box has none to use and `--device auto` leaves the choice.

    Raises BadSettings if it has one that cannot be used as things are installed or set,
    EdgeserveError if it does not come up, DoesNotFit if there is no memory to measure it with.
    """
    if driver.is_there and driver.said:  # where nvidia-smi hangs CUDA may, too
        log.warning("asking CUDA for a GPU, which may hang: %s", driver.said)
    if not cuda.is_available():
        _say_why_none(settings, driver, cuda)
        return None
    with _sentences(driver):
        cuda.init()
        name, capability = cuda.name(), cuda.capability()
        why_not = why_not_capable(name, capability)
        if why_not:
            raise BadSettings(why_not)
        memory_bytes, room_bytes = _limit_memory(settings.memory, cuda)
        return OpenGpu(
            torch_device=cuda.device,
            name=name,
            uuid=cuda.uuid(),
            memory_bytes=memory_bytes,
            reserve_bytes=cuda_runtime_bytes(
                context_counts=bool(settings.memory), capability=capability
            ),
            memory_bytes_per_s=_copy_bytes_per_s(cuda, room_bytes, clock),
        )


def _say_why_none(settings: WorkerSettings, driver: NvidiaDriver, cuda: Cuda) -> None:
    """Returns where there is nothing to say but to the log."""
    why_not = why_not_usable(driver, cuda.build)
    if why_not:
        raise BadSettings(why_not)
    if driver.is_there and not driver.is_hidden:
        raise _not_shown(driver, cuda)
    if settings.device == "cuda":
        raise BadSettings(_why_no_cuda(driver))
    if driver.is_hidden:
        log.info("CUDA_VISIBLE_DEVICES hides all GPUs: this worker computes on the CPU")
    elif driver.said:
        log.warning("this worker computes on the CPU; nvidia-smi says: %s", driver.said)


def _why_no_cuda(driver: NvidiaDriver) -> str:
    if driver.is_hidden:
        return f"--device cuda: CUDA_VISIBLE_DEVICES hides all GPUs; unset it, {ON_CPU}"
    said = f" (nvidia-smi: {driver.said})" if driver.said else ""
    return (
        f"--device cuda: this machine shows PyTorch no GPU{said}; check the driver (nvidia-smi) "
        f"and that PyTorch was installed with CUDA, {ON_CPU}"
    )


def _not_shown(driver: NvidiaDriver, cuda: Cuda) -> EdgeserveError:
    """There is a driver, it is new enough, and this process may use it."""
    box = f"this box has NVIDIA driver {driver.version}, but PyTorch {cuda.build.version}"
    if driver.said.startswith("CUDA_VISIBLE_DEVICES"):
        return BadSettings(f"{box} is shown no GPU: {driver.said}; correct it, {ON_CPU}")
    return EdgeserveError(_told(f"{box} is shown no GPU", driver.said or _said_by_init(cuda)))


def _said_by_init(cuda: Cuda) -> str:
    try:
        cuda.init()
    except FAILURES as error:
        return _first_line(error)
    return "it counts none"


FAILURES = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)
"""What PyTorch raises when CUDA does not come up; its errors of CUDA are RuntimeErrors."""


@contextmanager
def _sentences(driver: NvidiaDriver) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        what = f"the GPU (NVIDIA driver {driver.version}) does not come up"
        raise EdgeserveError(_told(what, _first_line(error))) from error


def _told(what: str, said: str) -> str:
    """`what` happened, what CUDA said of it, and the cure."""
    known = (cure for sign, cure in CURES.items() if sign.lower() in said.lower())
    cure = next(known, "nvidia-smi and the kernel's log (dmesg) may say more")
    return f"{what}: {said}; {cure}; {ON_CPU}"


def _first_line(error: Exception) -> str:
    """Without PyTorch's advice for those who write kernels."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _limit_memory(asked_bytes: int, cuda: Cuda) -> tuple[int, int]:
    """What this worker has, its CUDA context included; and what it can allocate of that now."""
    free_bytes, total_bytes = cuda.memory()
    if not asked_bytes:
        return free_bytes, free_bytes
    # The context counts as ours, too: what nvidia-smi shows stays below --memory.
    own_bytes = max(0, asked_bytes - CUDA_CONTEXT_BYTES)
    cuda.limit_memory(min(1.0, own_bytes / total_bytes))
    return min(asked_bytes, total_bytes), min(own_bytes, free_bytes)


def _copy_bytes_per_s(cuda: Cuda, room_bytes: int, clock: Clock) -> float:
    """Bytes read plus bytes written, per second, of a copy on the device; the best of several.

    Smaller buffers where there is no room. Raises DoesNotFit if even small ones do not fit.
    """
    copy_bytes = min(COPY_BYTES, room_bytes // 2)
    while copy_bytes >= COPY_BYTES_MIN:
        copy_s = _copy_s_if_room(cuda, copy_bytes, clock)
        cuda.empty_cache()
        if copy_s is not None:
            return 2 * copy_bytes / copy_s
        copy_bytes //= 2
    room, least, own = (
        f"{count / 1e6:.0f} MB"
        for count in (room_bytes, CUDA_CONTEXT_BYTES + 2 * COPY_BYTES_MIN, CUDA_CONTEXT_BYTES)
    )
    raise DoesNotFit(
        f"this worker can have {room} of the GPU's memory, which is too little to compute with; "
        f"give it a --memory above {least}, of which CUDA itself takes {own}, and end other "
        "programs on the card (nvidia-smi shows them)",
        room_bytes=room_bytes,
    )


def _copy_s_if_room(cuda: Cuda, copy_bytes: int, clock: Clock) -> float | None:
    """None if what is free is not in one piece, or no longer free."""
    try:
        return _copy_s(cuda, copy_bytes, clock)
    except torch.OutOfMemoryError:
        return None


def _copy_s(cuda: Cuda, copy_bytes: int, clock: Clock) -> float:
    source, target = cuda.zeros(copy_bytes), cuda.zeros(copy_bytes)
    target.copy_(source)
    cuda.synchronize()
    best_s = float("inf")
    for _ in range(COPIES):
        start_s = clock.now_s()
        target.copy_(source)
        cuda.synchronize()
        best_s = min(best_s, clock.now_s() - start_s)
    return best_s
