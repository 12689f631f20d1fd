"""A container's healthcheck: does the worker there say that it is well?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import pytest

from edgeserve.config import Address
from edgeserve.wire.check import is_serving
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress
from edgeserve.wire.server import RunSession, WorkerServer
from edgeserve.wire.supply import Manifest, SupplyPart, SupplyReply


class NeverAsked:
    """Health is answered without the handler."""

    def describe(self) -> Description:
        raise AssertionError

    def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        raise AssertionError

    def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        raise AssertionError("nothing is supplied here")

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> RunSession:
        raise AssertionError


@pytest.mark.asyncio
async def test_a_worker_is_well_for_those_with_its_token_until_it_stops() -> None:
    async with asyncio.timeout(10.0):
        server = WorkerServer(NeverAsked(), token="secret")
        target = str(await server.start(Address("127.0.0.1", 0)))
        assert await is_serving(target, "secret")
        assert not await is_serving(target, "")
        assert not await is_serving(target, "wrong")
        await server.stop(0.0)
        assert not await is_serving(target, "secret")
