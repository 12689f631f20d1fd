"""The worker's end: gRPC on one side, a plain object on the other.

Moves bytes and checks the token; it decides nothing and computes nothing. What a call needs is
asked of a `Handler`.
"""

from __future__ import annotations

import asyncio
import hmac
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgeserve.config import Address
from edgeserve.errors import BadSettings, EdgeserveError, WireError
from edgeserve.wire import EPOCH_METADATA, ERROR_METADATA, MESSAGE_BYTES_MAX, SERVICE, SOON
from edgeserve.wire.messages import (
    Description,
    LoadOrder,
    LoadProgress,
    description_to_pb,
    order_from_pb,
    progress_to_pb,
)
from edgeserve.wire.pb import worker_pb2 as pb
from edgeserve.wire.supply import (
    Manifest,
    SupplyPart,
    SupplyReply,
    decode_manifest,
    decode_part,
    encode_reply,
)

DETAILS_BYTES_MAX = 2048
"""Of an error's message. gRPC writes some bytes as three, and drops trailers above 8 KiB."""
_OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Gateways ping every few seconds to notice a frozen worker; the default calls that abuse.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # two workers on one port would each get half of the calls
]


class RunSession(Protocol):
    """One gateway's stream of frames."""

    def submit(self, raw: bytes) -> None:
        """Takes a frame off the wire; its result goes to the `reply` that the session was opened
        with.
        """
        ...

    def close(self) -> None: ...


class Handler(Protocol):
    """What a worker can be asked. Methods run on the server's event loop and must not block it."""

    def describe(self) -> Description: ...

    def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]: ...

    def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        """Asks for what it lacks, and takes it from `parts`, one at a time."""
        ...

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> RunSession:
        """`reply` may be called from any thread, and so may `announce`, with the seconds after
        which to send SOON. Raises WireError for an epoch that is over.
        """
        ...


class WorkerServer:
    """Serves one handler on one address."""

    def __init__(self, handler: Handler, token: str) -> None:
        self._handler = handler
        self._server = grpc.aio.server(interceptors=[_TokenCheck(token)], options=_OPTIONS)
        self._results: set[asyncio.Queue[bytes]] = set()
        """Of each stream of frames, what is still to be written."""
        self._server.add_generic_rpc_handlers((_routes(handler, self._results),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, listen: Address) -> Address:
        """The address, with the port that was taken. Raises BadSettings if it cannot be had."""
        try:
            port = self._server.add_insecure_port(str(listen))
        except RuntimeError:
            raise BadSettings(
                f"--listen {listen}: the port cannot be had; is another worker using it?"
            ) from None
        await self._server.start()
        for service in ("", SERVICE):
            await self._health.set(service, health_pb2.HealthCheckResponse.SERVING)
        return Address(listen.host, port)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, and cuts running ones off after `grace_s`."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    async def write_out(self, within_s: float) -> None:
        """Returns when the results that there are have been written, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.gather(*(each.join() for each in self._results))


def _routes(handler: Handler, streams: set[asyncio.Queue[bytes]]) -> grpc.GenericRpcHandler:
    """Run carries raw bytes, so that the codec's time is ours to measure."""

    async def describe(_request: pb.DescribeRequest, context: Any) -> pb.WorkerDescription:
        async with _errors_told(context):
            description = handler.describe()
        return description_to_pb(description)

    async def echo(request: pb.EchoRequest, _context: Any) -> pb.EchoReply:
        return pb.EchoReply(payload=request.payload)

    async def load(request: pb.LoadRequest, context: Any) -> None:
        async with (
            _errors_told(context),
            aclosing(handler.load(order_from_pb(request))) as steps,
        ):
            async for progress in steps:
                await context.write(progress_to_pb(progress))

    async def run(requests: AsyncIterator[bytes], context: Any) -> None:
        results: asyncio.Queue[bytes] = asyncio.Queue()
        streams.add(results)
        try:
            async with _errors_told(context):
                await _run(handler, requests, context, results)
        finally:
            streams.discard(results)

    async def supply(requests: AsyncIterator[bytes], context: Any) -> None:
        async with _errors_told(context):
            await _supply(handler, requests, context)

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Describe": grpc.unary_unary_rpc_method_handler(
                describe, pb.DescribeRequest.FromString, pb.WorkerDescription.SerializeToString
            ),
            "Load": grpc.unary_stream_rpc_method_handler(
                load, pb.LoadRequest.FromString, pb.LoadProgress.SerializeToString
            ),
            "Echo": grpc.unary_unary_rpc_method_handler(
                echo, pb.EchoRequest.FromString, pb.EchoReply.SerializeToString
            ),
            "Run": grpc.stream_stream_rpc_method_handler(run),
            "Supply": grpc.stream_stream_rpc_method_handler(supply),
        },
    )


async def _run(
    handler: Handler,
    requests: AsyncIterator[bytes],
    context: Any,
    results: asyncio.Queue[bytes],
) -> None:
    """Frames in on this task, results out on another, until either side ends."""
    loop = asyncio.get_running_loop()
    loop_thread = threading.get_ident()

    def reply(raw: bytes) -> None:
        # Behind what other threads have put there, so that results stay in order; on the loop's own
        # thread without the system call that wakes it.
        here = threading.get_ident() == loop_thread
        (loop.call_soon if here else loop.call_soon_threadsafe)(results.put_nowait, raw)

    def announce(in_s: float) -> None:
        loop.call_soon_threadsafe(loop.call_later, in_s, results.put_nowait, SOON)

    epoch = _epoch(context)
    session = handler.open_session(epoch, reply, announce)
    writer = asyncio.create_task(_write(context, results))
    try:
        # Tells the gateway that its stream was taken, before there is a result.
        await context.send_initial_metadata(((EPOCH_METADATA, str(epoch)),))
        async for raw in requests:
            if raw != SOON:
                session.submit(raw)
    finally:
        session.close()
        writer.cancel()


async def _supply(handler: Handler, requests: AsyncIterator[bytes], context: Any) -> None:
    """gRPC reads ahead no more than its window, so nothing piles up while a part is written."""
    manifest = decode_manifest(await anext(requests, b""))
    parts = (decode_part(raw) async for raw in requests)
    async with aclosing(handler.supply(manifest, parts)) as replies:
        async for reply in replies:
            await context.write(encode_reply(reply))


async def _write(context: Any, results: asyncio.Queue[bytes]) -> None:
    while True:
        await context.write(await results.get())
        results.task_done()


def _epoch(context: Any) -> int:
    text = dict(context.invocation_metadata()).get(EPOCH_METADATA, "")
    if not text.isdecimal():
        raise WireError(f"Run needs the metadata {EPOCH_METADATA}, a whole number; got {text!r}")
    return int(text)


@asynccontextmanager
async def _errors_told(context: Any) -> AsyncIterator[None]:
    """An error of ours ends the call, and is one of ours again at the other end."""
    try:
        yield
    except EdgeserveError as error:
        await _abort(context, error)


async def _abort(context: Any, error: EdgeserveError) -> None:
    status = grpc.StatusCode[error.grpc_status]
    details = str(error).encode()[:DETAILS_BYTES_MAX].decode(errors="ignore")
    await context.abort(status, details, ((ERROR_METADATA, error.error_type),))


class _TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call, health included, that does not carry the cluster's token, if there is
    one.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode() if token else None

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        details: Any,
    ) -> Any:
        handler = await continuation(details)
        given = str(dict(details.invocation_metadata).get("authorization", "")).encode()
        if self._expected is None or hmac.compare_digest(given, self._expected):
            return handler
        return _refusal(handler)


def _refusal(handler: Any) -> Any:
    """A handler of the same kind that only says no."""

    async def refuse(_request: Any, context: Any) -> None:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "the cluster's token is missing or wrong; set EDGESERVE_TOKEN to the same value on "
            "every box",
            ((ERROR_METADATA, "unauthorized"),),
        )

    streams = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    if handler is None:  # no such method: gRPC says so itself
        return None
    return streams[handler.request_streaming, handler.response_streaming](refuse)
