"""What is wrong with a cluster on this machine, as far as it can be known before any of it starts.

Each process checks its own settings again; here they are checked once, and not by three workers.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from edgeserve.config import GatewaySettings, WorkerSettings
from edgeserve.cost.reserve import CPU_RESERVE_BYTES, cuda_runtime_bytes
from edgeserve.errors import BadSettings
from edgeserve.families.folder import ModelSource
from edgeserve.families.spec import Dtype
from edgeserve.gpu import NONE, NvidiaDriver, Torch, why_not_usable
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.planner import CHUNK_ALONE, CHUNK_BESIDE, default_pages_max, make_plan

UNKNOWN_BYTES = 2**62
"""Of a card's memory: its own worker asks it."""


@dataclass(frozen=True, kw_only=True)
class WorkersHere:
    """The workers that are to be started on this machine, all alike."""

    count: int
    memory_bytes: int | None
    """Of each; None is not known here."""
    on_gpu: bool
    """On a card, or paced like one."""
    processors: int
    """Which compute beside each other: workers on one GPU take turns, paced ones do not."""

    @classmethod
    def of(
        cls, count: int, memory_bytes: int | None, settings: WorkerSettings, driver: NvidiaDriver
    ) -> WorkersHere:
        is_paced = bool(settings.pace)
        return cls(
            count=count,
            memory_bytes=memory_bytes,
            on_gpu=is_paced or takes_gpu(settings, driver),
            processors=count if is_paced else 1,
        )

    def facts(self) -> list[WorkerFacts]:
        memory_bytes, reserve_bytes = UNKNOWN_BYTES, 0
        if self.memory_bytes is not None:
            memory_bytes, reserve_bytes = self.memory_bytes, self._reserve_bytes
        return [
            WorkerFacts(
                name=f"worker {i}", memory_bytes=memory_bytes,
                reserve_bytes=reserve_bytes, is_gpu=self.on_gpu,
            )
            for i in range(self.count)
        ]  # fmt: skip

    @property
    def _reserve_bytes(self) -> int:
        """Of a GPU, which is not asked here, the least that any takes."""
        return cuda_runtime_bytes(context_counts=True) if self.on_gpu else CPU_RESERVE_BYTES


def takes_gpu(settings: WorkerSettings, driver: NvidiaDriver) -> bool:
    """Whether a worker here computes on a GPU, or ends saying why it cannot."""
    return settings.device != "cpu" and driver.is_there and not driver.is_hidden


def check_device(settings: WorkerSettings, driver: NvidiaDriver, torch: Torch) -> None:
    """Raises BadSettings if there is no such device, or no PyTorch that could use it."""
    if torch.version == NONE:
        raise BadSettings(
            "PyTorch is not installed, so no worker can run; install edgeserve[worker]"
        )
    if settings.pace or settings.device == "cpu":
        return
    why_not = why_not_usable(driver, torch)
    if why_not:
        raise BadSettings(why_not)
    if settings.device == "cuda" and not takes_gpu(settings, driver):
        shown = "CUDA_VISIBLE_DEVICES hides all GPUs" if driver.is_hidden else "there is no driver"
        raise BadSettings(
            f"--device cuda: this machine shows no GPU of NVIDIA's ({driver.said or shown}); see "
            "what nvidia-smi says, or say --device cpu"
        )


def check_port(port: int) -> None:
    """Raises BadSettings if another program has it. Port 0 is a free one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
        except OSError as error:
            raise BadSettings(
                f"--port {port}: it cannot be had ({error.strerror}); is another gateway using it? "
                "Take another one, or 0 for one that is free"
            ) from None


def check_fit(source: ModelSource, settings: GatewaySettings, workers: WorkersHere) -> None:
    """Raises BadRequest or DoesNotFit, as the gateway's planner would.

    A dtype that is not decided yet is taken for the smallest that may be chosen.
    """
    dtype = Dtype.BF16 if settings.dtype == "auto" else Dtype(settings.dtype)
    chunk = CHUNK_ALONE if workers.processors == 1 else CHUNK_BESIDE
    make_plan(
        source.spec, dtype, workers.facts(), layers=settings.layers,
        pages_max=default_pages_max(source.spec, settings.max_running),
        frame_tokens_max=(settings.prefill_chunk or chunk) + settings.max_running,
    )  # fmt: skip
