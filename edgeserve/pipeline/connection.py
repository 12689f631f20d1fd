"""The pipeline's end of one worker: `wire.client.WorkerClient` is one, and so are fakes of tests.

Every call is bounded by whoever makes it, and raises our errors alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from edgeserve.config import Address
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress


class Stream(Protocol):
    """Raw messages out and in, both in order. Whatever ends it is raised by both directions."""

    async def send(self, raw: bytes) -> None: ...

    async def receive(self) -> bytes: ...

    def cancel(self) -> None: ...


class FrameStream(Stream, Protocol):
    """Frames out, results in."""

    async def wait_until_open(self) -> None:
        """Returns when the worker has taken the stream. Raises what it refuses it with."""


class Connection(Protocol):
    """One worker. Close it when done."""

    @property
    def address(self) -> Address: ...

    async def describe(self, timeout_s: float) -> Description:
        """Raises StageUnavailable if it cannot be reached, WireError if it is no such worker."""
        ...

    def load(self, order: LoadOrder, timeout_s: float) -> AsyncIterator[LoadProgress]:
        """Progress until the slice is there; the last one says what was loaded."""
        ...

    def run(self, epoch: int) -> FrameStream:
        """Opens the stream of frames."""
        ...

    async def echo(self, payload: bytes, timeout_s: float) -> bytes:
        """The bytes, after a round trip."""
        ...

    def supply(self) -> Stream:
        """Opens a stream that brings tensors."""
        ...

    async def close(self) -> None: ...


Connect = Callable[[Address], Connection]
"""Makes a connection to the worker at an address, without waiting for it."""
