"""A worker process that is killed or frozen while a frame is under way is noticed in seconds."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeserve
from edgeserve.config import Address
from edgeserve.errors import StageUnavailable
from edgeserve.wire.client import KEEPALIVE_S, RunStream, WorkerClient

PROGRAM = Path(__file__).parent / "echo_worker.py"
START_TIMEOUT_S = 20.0


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    source = str(Path(edgeserve.__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
    ) as started:
        yield started
        started.kill()


async def _stream(process: subprocess.Popen[bytes]) -> tuple[WorkerClient, RunStream]:
    """Open, and proven by one frame."""
    assert process.stdout is not None
    async with asyncio.timeout(START_TIMEOUT_S):
        port = await asyncio.to_thread(process.stdout.readline)
        client = WorkerClient(Address("127.0.0.1", int(port)), "")
        stream = client.run(1)
        await stream.wait_until_open()
        await stream.send(b"frame")
        assert await stream.receive() == b"frame"
    return client, stream


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.asyncio
async def test_a_worker_that_is_killed_is_noticed_at_once(
    process: subprocess.Popen[bytes],
) -> None:
    client, stream = await _stream(process)
    reading = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)  # it waits for a result now
    process.kill()
    async with asyncio.timeout(10.0):
        with pytest.raises(StageUnavailable, match=f"worker {client.address}"):
            await reading
        with pytest.raises(StageUnavailable):
            await stream.send(b"frame")
        with pytest.raises(StageUnavailable, match="cannot be reached"):
            await client.echo(b"", timeout_s=5.0)
    await client.close()


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.asyncio
async def test_a_worker_that_is_frozen_is_noticed_within_two_keepalives(
    process: subprocess.Popen[bytes],
) -> None:
    client, stream = await _stream(process)
    process.send_signal(signal.SIGSTOP)
    async with asyncio.timeout(2 * KEEPALIVE_S + 8.0):
        with pytest.raises(StageUnavailable, match=f"worker {client.address}"):
            await stream.receive()
    await client.close()
