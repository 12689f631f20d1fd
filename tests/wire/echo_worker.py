"""A worker process that computes nothing, to be killed and frozen. A frame is its own result."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from edgeserve.config import Address
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress
from edgeserve.wire.server import WorkerServer
from edgeserve.wire.supply import Manifest, SupplyPart, SupplyReply


class EchoSession:
    def __init__(self, reply: Callable[[bytes], None]) -> None:
        self.submit = reply

    def close(self) -> None:
        pass


class EchoHandler:
    def describe(self) -> Description:
        raise NotImplementedError

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        yield LoadProgress(bytes_done=0, bytes_total=0)

    def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        raise AssertionError("nothing is supplied here")

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> EchoSession:
        return EchoSession(reply)


async def main() -> None:
    server = WorkerServer(EchoHandler(), token="")
    address = await server.start(Address("127.0.0.1", 0))
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
