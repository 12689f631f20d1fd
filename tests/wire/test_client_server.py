"""Both ends over real gRPC on loopback, with a handler that computes nothing."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from edgeserve.config import Address
from edgeserve.errors import (
    BadModel,
    BadSettings,
    DeviceLost,
    DoesNotFit,
    EdgeserveError,
    Overloaded,
    StageUnavailable,
    Unauthorized,
    WireError,
)
from edgeserve.wire import EPOCH_METADATA, MESSAGE_BYTES_MAX, PROTOCOL, SERVICE, SOON
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import Description, LoadProgress
from edgeserve.wire.server import WorkerServer
from tests.wire.fake_worker import (
    DESCRIPTION,
    LOADED,
    LOOPBACK,
    ORDER,
    TIMEOUT_S,
    FakeHandler,
    load_all,
    serving,
)

# -- calls


@pytest.mark.asyncio
async def test_a_worker_describes_itself() -> None:
    async with serving(FakeHandler()) as client:
        assert await client.describe(TIMEOUT_S) == DESCRIPTION


@pytest.mark.asyncio
async def test_loading_reports_progress_and_ends_with_what_was_loaded() -> None:
    handler = FakeHandler()
    async with serving(handler) as client:
        assert await load_all(client) == [
            LoadProgress(bytes_done=40, bytes_total=100),
            LoadProgress(bytes_done=100, bytes_total=100, loaded=LOADED),
        ]
    assert handler.orders == [ORDER]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error",
    [
        BadModel("model.safetensors is 3 bytes short; copy it again"),
        DoesNotFit("9 pages more than fit; ask for fewer"),
        WireError("spec 0123 is not 4567"),
        StageUnavailable("the device has gone"),
        DeviceLost("the device has gone for good"),
        EdgeserveError("Schlüssel fehlt\nin Zeile 2: 100 %"),
    ],
)
async def test_an_error_keeps_its_class_and_words_and_names_the_worker(
    error: EdgeserveError,
) -> None:
    async with serving(FakeHandler(load_error=error)) as client:
        progress = client.load(ORDER, TIMEOUT_S)
        assert await anext(progress) == LoadProgress(bytes_done=40, bytes_total=100)
        with pytest.raises(EdgeserveError) as raised:
            await anext(progress)
        assert type(raised.value) is type(error)
        assert str(raised.value) == f"worker {client.address}: {error}"
        assert raised.value.numbers["worker"] == str(client.address)


@pytest.mark.asyncio
async def test_an_error_with_a_very_long_message_is_cut_and_keeps_its_class() -> None:
    """All tensor names of a broken checkpoint, say. gRPC would drop class and words."""
    async with serving(FakeHandler(load_error=BadModel("ö" * 100_000))) as client:
        with pytest.raises(BadModel, match="ö{1000}") as raised:
            await load_all(client)
        assert len(str(raised.value)) < 5000


@pytest.mark.asyncio
async def test_an_error_that_only_a_gateway_can_make_is_a_wire_error() -> None:
    error = Overloaded("come back", retry_after_s=3)
    async with serving(FakeHandler(load_error=error)) as client:
        with pytest.raises(WireError, match="come back"):
            await load_all(client)


@pytest.mark.asyncio
async def test_an_echo_of_ten_megabytes_passes() -> None:
    payload = bytes(range(256)) * 40_000
    async with serving(FakeHandler()) as client:
        assert await client.echo(payload, TIMEOUT_S) == payload


@pytest.mark.slow
@pytest.mark.asyncio
async def test_an_echo_above_the_limit_is_refused_with_both_numbers() -> None:
    async with serving(FakeHandler()) as client:
        with pytest.raises(WireError, match=f"larger than max .*{MESSAGE_BYTES_MAX}"):
            await client.echo(bytes(MESSAGE_BYTES_MAX), TIMEOUT_S)
        assert await client.echo(b"still there", TIMEOUT_S) == b"still there"


@pytest.mark.asyncio
async def test_another_protocol_is_refused_naming_worker_and_both_versions() -> None:
    other = replace(DESCRIPTION, protocol=PROTOCOL + 1, package_version="7.7")
    async with serving(FakeHandler(description=other)) as client:
        with pytest.raises(WireError) as raised:
            await client.describe(TIMEOUT_S)
        assert str(raised.value).startswith(
            f"worker {client.address}: it speaks protocol {PROTOCOL + 1}"
        )
        assert f"speaks {PROTOCOL} " in str(raised.value)


@pytest.mark.asyncio
async def test_a_worker_that_does_not_know_the_call_is_another_version() -> None:
    async with asyncio.timeout(2 * TIMEOUT_S):
        other_program = grpc.aio.server()
        port = other_program.add_insecure_port("127.0.0.1:0")
        await other_program.start()
        client = WorkerClient(Address("127.0.0.1", port), "")
        with pytest.raises(WireError, match=f"worker 127.0.0.1:{port}: .*another version"):
            await client.describe(TIMEOUT_S)
        stream = client.run(5)
        with pytest.raises(WireError, match="another version"):
            await stream.wait_until_open()
        await client.close()
        await other_program.stop(None)


# -- addresses


@pytest.mark.asyncio
async def test_a_worker_that_is_not_there_is_unavailable_at_once() -> None:
    async with serving(FakeHandler()) as client:
        address = client.address
    async with asyncio.timeout(10.0):
        gone = WorkerClient(address, "")
        with pytest.raises(StageUnavailable, match=f"worker {address} cannot be reached") as raised:
            await gone.describe(TIMEOUT_S)
        assert raised.value.numbers == {"retryable": True, "worker": str(address)}
        stream = gone.run(5)
        with pytest.raises(StageUnavailable):
            await stream.wait_until_open()
        with pytest.raises(StageUnavailable):
            await stream.send(b"frame")
        with pytest.raises(StageUnavailable):
            await stream.receive()
        await gone.close()


@pytest.mark.asyncio
async def test_a_worker_that_never_answers_is_unavailable_in_the_time_given() -> None:
    """A listening socket that nobody accepts from: the box is there, the program is frozen."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = WorkerClient(Address("127.0.0.1", silent.getsockname()[1]), "")
        async with asyncio.timeout(TIMEOUT_S):
            with pytest.raises(StageUnavailable, match="cannot be reached"):
                await client.describe(timeout_s=0.1)
            await client.close()


@pytest.mark.asyncio
async def test_a_proxy_for_the_web_is_not_asked_for_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with serving(FakeHandler()) as client:
        assert await client.describe(TIMEOUT_S) == DESCRIPTION


@pytest.mark.asyncio
async def test_a_port_that_is_taken_is_a_bad_setting() -> None:
    async with serving(FakeHandler()) as client:
        second = WorkerServer(FakeHandler(), "")
        with pytest.raises(BadSettings, match=f"--listen {client.address}: .*another worker"):
            await second.start(client.address)


@pytest.mark.asyncio
async def test_a_port_zero_is_told_as_the_port_that_was_taken() -> None:
    async with serving(FakeHandler()) as client:
        assert client.address.host == "127.0.0.1"
        assert client.address.port > 0


# -- the token


@pytest.mark.asyncio
@pytest.mark.parametrize("said", ["", "wrong", "secre", "secret!"])
async def test_every_call_needs_the_token(said: str) -> None:
    handler = FakeHandler()
    async with serving(handler, token="secret", said=said) as client:
        stream = client.run(5)
        calls: list[Callable[[], Any]] = [
            lambda: client.describe(TIMEOUT_S),
            lambda: load_all(client),
            lambda: client.echo(b"x", TIMEOUT_S),
            stream.wait_until_open,
            stream.receive,
        ]
        for call in calls:
            with pytest.raises(Unauthorized, match="set EDGESERVE_TOKEN to the same value"):
                await call()
    assert not handler.orders
    assert not handler.sessions


@pytest.mark.asyncio
async def test_the_right_token_opens_every_call() -> None:
    async with serving(FakeHandler(), token="secret") as client:
        assert await client.describe(TIMEOUT_S) == DESCRIPTION
        assert len(await load_all(client)) == 2
        stream = client.run(5)
        await stream.wait_until_open()
        await stream.send(b"frame")
        assert await stream.receive() == b"frame"


@pytest.mark.asyncio
async def test_health_is_told_to_those_with_the_token_alone() -> None:
    async with (
        serving(FakeHandler(), token="secret") as client,
        grpc.aio.insecure_channel(str(client.address)) as channel,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(request, timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "EDGESERVE_TOKEN" in str(refused.value.details())
        metadata = (("authorization", "Bearer secret"),)
        answer = await health.Check(request, timeout=TIMEOUT_S, metadata=metadata)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


# -- the stream


@pytest.mark.asyncio
async def test_results_come_in_the_order_of_their_frames() -> None:
    frames = [b"%d" % i for i in range(1000)]
    async with serving(FakeHandler()) as client:
        stream = client.run(5)
        await stream.wait_until_open()

        async def send_all() -> None:
            for frame in frames:
                await stream.send(frame)

        sending = asyncio.create_task(send_all())
        results = [await stream.receive() for _ in frames]
        await sending
    assert results == frames


@pytest.mark.asyncio
async def test_what_is_announced_passes_both_ways_beside_the_frames() -> None:
    async with serving(FakeHandler()) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        for message in (SOON, b"announce", SOON, b"frame"):
            await stream.send(message)
        assert sorted([await stream.receive() for _ in range(3)]) == [SOON, b"announce", b"frame"]


@pytest.mark.asyncio
async def test_ten_megabytes_pass_in_one_frame_and_more_than_the_limit_is_refused() -> None:
    payload = bytes(10_000_000)
    async with serving(FakeHandler()) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        await stream.send(payload)
        assert await stream.receive() == payload
        with pytest.raises(WireError, match="lower --prefill-chunk") as raised:
            await stream.send(bytes(MESSAGE_BYTES_MAX + 1))
        assert raised.value.numbers == {
            "frame_bytes": MESSAGE_BYTES_MAX + 1,
            "message_bytes_max": MESSAGE_BYTES_MAX,
        }
        await stream.send(b"the stream goes on")
        assert await stream.receive() == b"the stream goes on"


@pytest.mark.asyncio
async def test_a_result_above_the_limit_ends_the_stream_rather_than_being_lost() -> None:
    handler = FakeHandler()
    async with serving(handler) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        await stream.send(b"grow")
        with pytest.raises(WireError, match=f"{MESSAGE_BYTES_MAX}"):
            await stream.receive()
        await handler.sessions[0].closed.wait()


@pytest.mark.asyncio
async def test_an_epoch_that_is_over_is_refused_when_the_stream_opens() -> None:
    async with serving(FakeHandler(epoch=6)) as client:
        stream = client.run(5)
        with pytest.raises(WireError, match=f"worker {client.address}: epoch 5 is over"):
            await stream.wait_until_open()
        with pytest.raises(WireError, match="epoch 5 is over"):
            await stream.send(b"frame")
        #      the reason stays the same, however often and whatever is asked
        with pytest.raises(WireError, match="epoch 5 is over"):
            await stream.receive()


@pytest.mark.asyncio
@pytest.mark.parametrize("epoch", [None, "", "soon", "-1"])
async def test_an_epoch_that_is_no_number_is_a_wire_error(epoch: str | None) -> None:
    handler = FakeHandler()
    async with (
        serving(handler) as client,
        grpc.aio.insecure_channel(str(client.address)) as channel,
    ):
        method: Any = channel.stream_stream(f"/{SERVICE}/Run")
        call = method(metadata=() if epoch is None else ((EPOCH_METADATA, epoch),))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call.read()
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert f"{EPOCH_METADATA}, a whole number" in str(refused.value.details())
    assert not handler.sessions


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("frame", "words"),
    [(b"garbage", "7 bytes are not a Frame"), (b"die", "the handler is broken")],
)
async def test_a_frame_that_the_worker_cannot_read_ends_the_stream_with_its_words(
    frame: bytes, words: str
) -> None:
    handler = FakeHandler()
    async with serving(handler) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        await stream.send(frame)
        with pytest.raises(WireError, match=f"worker {client.address}: .*{words}"):
            await stream.receive()
        await handler.sessions[0].closed.wait()
        again = client.run(5)
        await again.wait_until_open()
        await again.send(b"the worker goes on")
        assert await again.receive() == b"the worker goes on"


@pytest.mark.asyncio
async def test_a_gateway_that_ends_its_stream_ends_the_session() -> None:
    handler = FakeHandler()
    async with serving(handler) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        reading = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)  # it waits for a result now
        stream.cancel()
        await handler.sessions[0].closed.wait()
        with pytest.raises(StageUnavailable):
            await reading
        #      our error, not a CancelledError: nobody cancelled the task that reads
        with pytest.raises(StageUnavailable):
            await stream.send(b"frame")


@pytest.mark.asyncio
async def test_a_task_that_is_cancelled_while_it_reads_is_cancelled() -> None:
    async with serving(FakeHandler()) as client:
        stream = client.run(5)
        await stream.wait_until_open()
        reading = asyncio.create_task(stream.receive())
        await asyncio.sleep(0)
        stream.cancel()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


@pytest.mark.asyncio
async def test_a_worker_that_stops_ends_the_stream_and_says_so() -> None:
    async with asyncio.timeout(2 * TIMEOUT_S):
        handler = FakeHandler()
        server = WorkerServer(handler, "")
        client = WorkerClient(await server.start(LOOPBACK), "")
        stream = client.run(5)
        await stream.wait_until_open()
        reading = asyncio.create_task(stream.receive())
        await server.stop(0.0)
        with pytest.raises(StageUnavailable, match=f"worker {client.address}") as raised:
            await reading
        assert raised.value.numbers["worker"] == str(client.address)
        with pytest.raises(StageUnavailable):
            await stream.send(b"frame")
        assert handler.sessions[0].closed.is_set()
        await client.close()


# -- a worker's last words


@pytest.mark.asyncio
async def test_results_that_are_there_are_written_out_within_a_bound() -> None:
    """The gateway does not read at first, and then it does."""
    handler, large = FakeHandler(), bytes(2**20)
    server = WorkerServer(handler, "")
    client = WorkerClient(await server.start(LOOPBACK), "")
    async with asyncio.timeout(2 * TIMEOUT_S):
        stream = client.run(5)
        await stream.wait_until_open()
        for _ in range(64):  # far above any window, so that they cannot all be on their way
            handler.sessions[0].reply(large)
        started_s = time.monotonic()
        await server.write_out(0.1)
        assert 0.1 <= time.monotonic() - started_s < 1.0

        writing = asyncio.create_task(server.write_out(TIMEOUT_S))
        await asyncio.sleep(0)
        assert not writing.done()
        came = [await stream.receive() for _ in range(64)]
        await writing
        assert time.monotonic() - started_s < TIMEOUT_S, "as soon as they are"
        assert set(came) == {large}
    await client.close()
    await server.stop(0.0)


@pytest.mark.asyncio
async def test_a_handler_may_refuse_to_describe_itself() -> None:
    class Lost(FakeHandler):
        def describe(self) -> Description:
            raise DeviceLost("the GPU has failed")

    async with serving(Lost()) as client:
        with pytest.raises(DeviceLost, match="the GPU has failed"):
            await client.describe(TIMEOUT_S)
