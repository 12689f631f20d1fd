"""What the doctor saw, as data: this box, and what became of each worker that was asked."""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve.box import Box
from edgeserve.config import GatewaySettings, WorkerSettings
from edgeserve.cost.reserve import CPU_MEMORY_SHARE
from edgeserve.doctor.link import Link
from edgeserve.errors import EdgeserveError
from edgeserve.gpu import Gpu, NvidiaDriver, Torch
from edgeserve.plan.facts import Plan
from edgeserve.wire.messages import Description


@dataclass(frozen=True, kw_only=True)
class Here:
    """The box that the doctor runs on, and what its commands would be started with."""

    box: Box
    driver: NvidiaDriver
    torch: Torch
    why_no_kernels: str
    """What is missing to compile them; empty if nothing is, or no GPU needs them."""
    cores: int
    as_gateway: GatewaySettings
    as_worker: WorkerSettings

    @property
    def is_gateways(self) -> bool:
        """Whoever names workers is their gateway; any other box can only be a worker."""
        return bool(self.as_gateway.workers)

    @property
    def may_take_gpu(self) -> bool:
        """Whether a worker here would look for one. A paced one takes a card's time only."""
        return self.as_worker.device != "cpu" and not self.as_worker.pace

    @property
    def gpu(self) -> Gpu | None:
        """The one that a worker here would take."""
        return self.driver.gpu if self.may_take_gpu else None

    @property
    def memory_free_bytes(self) -> int:
        """Of the device that a worker here would take; 0 where a GPU does not tell."""
        return self.gpu.memory_free_bytes if self.gpu else self.box.memory_free_bytes

    @property
    def memory_bytes(self) -> int:
        """What a worker here might use; 0 where a GPU does not tell."""
        share = 1.0 if self.gpu else CPU_MEMORY_SHARE
        return self.as_worker.memory or int(share * self.memory_free_bytes)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A worker that said what it is."""

    worker: str
    """HOST:PORT."""
    description: Description
    link: Link | EdgeserveError

    def is_same_as(self, other: Answered) -> bool:
        """One worker at two addresses."""
        identity = self.description.identity
        return bool(identity) and identity == other.description.identity


@dataclass(frozen=True, kw_only=True)
class Silent:
    """One that did not, or not in words of this version."""

    worker: str
    why: EdgeserveError


@dataclass(frozen=True, kw_only=True)
class Examined:
    here: Here
    workers: tuple[Answered | Silent, ...]
    plan: Plan | EdgeserveError | None
    """Or what is wrong with the model or its plan; None if there was nothing to plan with."""
    warnings: tuple[str, ...] = ()
    """Of the model's files."""

    @property
    def answered(self) -> list[Answered]:
        return [each for each in self.workers if isinstance(each, Answered)]
