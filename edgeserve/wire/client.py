"""The gateway's end of one worker: three calls and two streams, with our errors instead of gRPC's.
Every call has a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from edgeserve.config import Address
from edgeserve.errors import EdgeserveError, StageUnavailable, WireError, named_errors
from edgeserve.wire import EPOCH_METADATA, ERROR_METADATA, MESSAGE_BYTES_MAX, SERVICE
from edgeserve.wire.messages import (
    Description,
    LoadOrder,
    LoadProgress,
    description_from_pb,
    order_to_pb,
    progress_from_pb,
)
from edgeserve.wire.pb import worker_pb2 as pb

KEEPALIVE_S = 5
"""A worker that answers no ping for this long after one was sent is lost, so a frozen box is
noticed within twice it.
"""

_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_S * 1000),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_S * 1000),  # the one that counts; by itself a minute
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),  # workers are next door; a proxy for the web does not know them
    ("grpc.use_local_subchannel_pool", 1),  # a channel made again means a connection made again
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.enable_retries", 0),
]
_NOT_THERE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}
_BROKEN_WRITE = (grpc.StatusCode.INTERNAL, "Internal error from Core")
"""What gRPC says of a write that a dying connection took along, before it knows that it died."""


_NOT_GRPC = ("Failed parsing HTTP/2", "http1.x server")
"""What gRPC says of a server that answers in another way, as a gateway or a web server does."""


class WorkerClient:
    """One worker by address. Close it when done."""

    def __init__(self, address: Address, token: str) -> None:
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._channel = grpc.aio.insecure_channel(str(address), options=_OPTIONS)

    async def describe(self, timeout_s: float) -> Description:
        """Raises StageUnavailable if it cannot be reached, WireError if of another protocol or no
        worker at all.
        """
        call = self._method("unary_unary", "Describe", pb.DescribeRequest, pb.WorkerDescription)
        with self._our_errors():
            request = pb.DescribeRequest()
            message = await call(request, timeout=timeout_s, metadata=self._metadata)
            return description_from_pb(message)

    async def load(self, order: LoadOrder, timeout_s: float) -> AsyncIterator[LoadProgress]:
        """Progress until the slice is there; the last one says what was loaded."""
        call = self._method("unary_stream", "Load", pb.LoadRequest, pb.LoadProgress)
        with self._our_errors():
            stream = call(order_to_pb(order), timeout=timeout_s, metadata=self._metadata)
            async for message in stream:
                yield progress_from_pb(message)

    async def echo(self, payload: bytes, timeout_s: float) -> bytes:
        """The bytes, after a round trip."""
        call = self._method("unary_unary", "Echo", pb.EchoRequest, pb.EchoReply)
        with self._our_errors():
            request = pb.EchoRequest(payload=payload)
            reply = await call(request, timeout=timeout_s, metadata=self._metadata)
            return bytes(reply.payload)

    def run(self, epoch: int) -> RunStream:
        """Opens the stream of frames. It has no time limit of its own; the relay watches it."""
        metadata = (*self._metadata, (EPOCH_METADATA, str(epoch)))
        method: Any = self._channel.stream_stream(f"/{SERVICE}/Run")
        return RunStream(method(metadata=metadata), self)

    def supply(self) -> MessageStream:
        """Opens a stream that brings tensors; `wire.supply` has its messages."""
        method: Any = self._channel.stream_stream(f"/{SERVICE}/Supply")
        return MessageStream(method(metadata=self._metadata), self)

    async def close(self) -> None:
        await self._channel.close()

    def error_of(self, code: Any, details: str | None, trailers: Any) -> EdgeserveError:
        """What the worker said, as the error it was there; what gRPC says, as no worker there."""
        worker, said = str(self.address), dict(trailers or ()).get(ERROR_METADATA)
        if said is not None:
            kind = named_errors().get(str(said), WireError)
            return _build(kind, f"worker {worker}: {details}", worker)
        if (code, details) == _BROKEN_WRITE:
            code, details = grpc.StatusCode.UNAVAILABLE, "the connection broke"
        if any(words in (details or "") for words in _NOT_GRPC):
            return WireError(
                f"what answers at {worker} is no worker of edgeserve: it does not speak gRPC; see "
                "that the address and the port are right",
                worker=worker,
            )
        if code in _NOT_THERE:
            return StageUnavailable(
                f"worker {worker} cannot be reached ({details or code}); see that it runs, and "
                "that the address is right",
                worker=worker,
            )
        if code is grpc.StatusCode.UNIMPLEMENTED:
            details = f"{details}; it is another program, or another version of edgeserve"
        return WireError(f"worker {worker}: {details or code}", worker=worker)

    def _method(self, kind: str, name: str, request: Any, reply: Any) -> Any:
        return getattr(self._channel, kind)(
            f"/{SERVICE}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )

    @contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Whatever goes wrong inside is one of our errors, and names the worker."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            details, trailers = error.details(), error.trailing_metadata()
            raise self.error_of(error.code(), details, trailers) from None
        except WireError as error:
            raise WireError(f"worker {self.address}: {error}", worker=str(self.address)) from None


class MessageStream:
    """Raw bytes out and in, both in order.

    Cancelling a task that waits in `send` or `receive` ends the stream: half a message cannot be
    taken back.
    """

    def __init__(self, call: Any, client: WorkerClient) -> None:
        self._call = call
        self._client = client

    async def send(self, raw: bytes) -> None:
        """Returns when there is room for more. Raises when the stream is over."""
        await self._unless_over(self._call.write(raw))

    async def receive(self) -> bytes:
        """The next message. Raises when the stream is over, whatever ended it."""
        raw = await self._unless_over(self._call.read())
        if raw is grpc.aio.EOF:
            raise await self._why_over()
        return bytes(raw)

    def cancel(self) -> None:
        self._call.cancel()

    async def _unless_over(self, operation: Awaitable[Any]) -> Any:
        """gRPC has three ways to say that a call is over. Here it is always our error."""
        try:
            return await operation
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # else it is the call that was cancelled, not this task
        raise await self._why_over()

    async def _why_over(self) -> EdgeserveError:
        code, details = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNAVAILABLE, "it closed its stream"
        return self._client.error_of(code, details, await self._call.trailing_metadata())


class RunStream(MessageStream):
    """Frames out, results in."""

    async def wait_until_open(self) -> None:
        """Returns when the worker has taken the stream. Raises what it refuses it with."""
        metadata = await self._unless_over(self._call.initial_metadata())
        if EPOCH_METADATA not in dict(metadata or ()):
            raise await self._why_over()

    async def send(self, raw: bytes) -> None:
        """Raises when the stream is over. Too long a message is refused, and the stream goes on."""
        if len(raw) > MESSAGE_BYTES_MAX:
            raise WireError(
                f"a frame of {len(raw)} bytes is more than the {MESSAGE_BYTES_MAX} that fit a "
                "message; lower --prefill-chunk",
                frame_bytes=len(raw), message_bytes_max=MESSAGE_BYTES_MAX,
            )  # fmt: skip
        await super().send(raw)


def _build(kind: type[EdgeserveError], message: str, worker: str) -> EdgeserveError:
    """Overloaded alone wants more than a message, and no worker sends it."""
    try:
        return kind(message, worker=worker)
    except TypeError:
        return WireError(message, worker=worker)
