"""Workers in the test's own loop, as the pipeline sees them: no process, no network, no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from edgeserve.config import Address
from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.families.spec import Dtype
from edgeserve.wire.messages import Description, Loaded, LoadOrder, LoadProgress

DESCRIPTION = Description(
    device="cpu", device_name="fake", memory_bytes=2**40, reserve_bytes=0, memory_bytes_per_s=0.0,
    dtypes=(Dtype.FP32,), epoch=0, loaded=None,
)  # fmt: skip


@dataclass(kw_only=True, eq=False)
class FakeStream:
    """Open until its worker ends it."""

    over: asyncio.Future[EdgeserveError] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    is_cancelled: bool = False

    async def wait_until_open(self) -> None:
        pass

    async def send(self, _raw: bytes) -> None:
        if self.over.done():
            raise self.over.result()

    async def receive(self) -> bytes:
        raise await asyncio.shield(self.over)

    def cancel(self) -> None:
        self.is_cancelled = True


@dataclass(kw_only=True, eq=False)
class FakeWorker:
    """Holds at once whatever it is told to hold, unless a test says otherwise."""

    address: Address
    description: Description = DESCRIPTION
    unreachable: bool = False
    load_error: EdgeserveError | None = None
    holds_back: asyncio.Event | None = None
    """Loading waits for it."""
    orders: list[LoadOrder] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    closed: int = 0
    """Connections of it."""

    async def describe(self, timeout_s: float) -> Description:
        assert timeout_s > 0
        if self.unreachable:
            raise StageUnavailable(f"worker {self.address} cannot be reached")
        return self.description

    async def load(self, order: LoadOrder, timeout_s: float) -> AsyncIterator[LoadProgress]:
        assert timeout_s > 0
        self.orders.append(order)
        yield LoadProgress(bytes_done=0, bytes_total=1)
        if self.holds_back is not None:
            await self.holds_back.wait()
        if self.load_error is not None:
            raise self.load_error
        self.description = replace(self.description, epoch=order.epoch)
        loaded = Loaded(
            spec_hash=order.spec_hash, slice_hash="", stage=order.stage, dtype=order.dtype,
            pages=order.pages, slice_bytes=1, random_weights=True, load_s=0.0,
        )  # fmt: skip
        yield LoadProgress(bytes_done=1, bytes_total=1, loaded=loaded)

    async def echo(self, payload: bytes, timeout_s: float) -> bytes:
        assert timeout_s > 0
        return payload

    def run(self, epoch: int) -> FakeStream:
        assert epoch == self.orders[-1].epoch
        self.streams.append(FakeStream())
        return self.streams[-1]

    def supply(self) -> FakeStream:
        raise AssertionError("models without files are not supplied")

    async def close(self) -> None:
        self.closed += 1

    def die(self, why: str = "the connection broke") -> None:
        """As it is seen from here: its stream of frames ends."""
        self.streams[-1].over.set_result(StageUnavailable(why))
