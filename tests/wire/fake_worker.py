"""A worker that computes nothing, behind real gRPC on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from edgeserve.config import Address
from edgeserve.errors import (
    EdgeserveError,
    WireError,
)
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.wire import MESSAGE_BYTES_MAX, SOON
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import Description, Loaded, LoadOrder, LoadProgress
from edgeserve.wire.server import WorkerServer
from edgeserve.wire.supply import (
    Manifest,
    Supplied,
    SupplyPart,
    SupplyReply,
    WantedTensor,
)

LOOPBACK = Address("127.0.0.1", 0)
TIMEOUT_S = 5.0
STAGE = Stage(LayerRange(0, 4), embedding=True, head=False)
LOADED = Loaded(
    spec_hash="0123",
    slice_hash="4567",
    stage=STAGE,
    dtype=Dtype.FP32,
    pages=9,
    slice_bytes=100,
    random_weights=False,
    load_s=0.5,
)
ORDER = LoadOrder(
    epoch=5,
    model="demo",
    spec_hash="0123",
    stage=STAGE,
    dtype=Dtype.FP32,
    pages=9,
    frame_tokens_max=64,
)
DESCRIPTION = Description(
    device="cpu",
    device_name="2 cores",
    memory_bytes=1000,
    reserve_bytes=10,
    memory_bytes_per_s=0.0,
    dtypes=(Dtype.BF16, Dtype.FP32),
    epoch=4,
    loaded=LOADED,
)


@dataclass(kw_only=True)
class EchoSession:
    """Answers every frame with its own bytes, from another thread as a device does."""

    reply: Callable[[bytes], None]
    announce: Callable[[float], None]
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    device: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(max_workers=1))

    def submit(self, raw: bytes) -> None:
        if raw == b"garbage":
            raise WireError("7 bytes are not a Frame")
        if raw == b"die":
            raise ZeroDivisionError("the handler is broken")
        assert raw != SOON, "it is no frame"
        if raw == b"announce":
            self.device.submit(self.announce, 0.01)
        if raw == b"grow":
            raw = bytes(MESSAGE_BYTES_MAX + 1)
        self.device.submit(self.reply, raw)

    def close(self) -> None:
        self.closed.set()
        self.device.shutdown(wait=False)


@dataclass(kw_only=True)
class FakeHandler:
    """A worker without a model. `load_error` is raised in the middle of loading."""

    description: Description = DESCRIPTION
    load_error: EdgeserveError | None = None
    epoch: int = 5
    sessions: list[EchoSession] = field(default_factory=list)
    orders: list[LoadOrder] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    came: list[bytes] = field(default_factory=list)

    def describe(self) -> Description:
        return self.description

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        self.orders.append(order)
        yield LoadProgress(bytes_done=40, bytes_total=100)
        if self.load_error is not None:
            raise self.load_error
        yield LoadProgress(bytes_done=100, bytes_total=100, loaded=LOADED)

    async def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        """Wants the second half of everything, and says what came."""
        self.manifests.append(manifest)
        wanted = tuple(
            WantedTensor(tensor=place, offset=tensor.bytes // 2)
            for place, tensor in enumerate(manifest.tensors)
        )
        yield SupplyReply(wanted=wanted)
        for each in wanted:
            offset = each.offset
            while offset < manifest.tensors[each.tensor].bytes:
                part = await anext(parts)
                assert (part.tensor, part.offset) == (each.tensor, offset)
                offset += len(part.payload)
                self.came.append(part.payload)
        yield SupplyReply(supplied=Supplied(streamed_bytes=sum(map(len, self.came))))

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> EchoSession:
        if epoch < self.epoch:
            raise WireError(f"epoch {epoch} is over")
        self.sessions.append(EchoSession(reply=reply, announce=announce))
        return self.sessions[-1]


@asynccontextmanager
async def serving(
    handler: FakeHandler, token: str = "", said: str | None = None
) -> AsyncIterator[WorkerClient]:
    """A client of a served handler, with the server's token unless it says another."""
    async with asyncio.timeout(2 * TIMEOUT_S):
        server = WorkerServer(handler, token)
        client = WorkerClient(await server.start(LOOPBACK), token if said is None else said)
        try:
            yield client
        finally:
            await client.close()
            await server.stop(0.0)


async def load_all(client: WorkerClient) -> list[LoadProgress]:
    return [each async for each in client.load(ORDER, TIMEOUT_S)]
