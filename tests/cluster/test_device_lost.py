"""A worker whose GPU has failed for good: it says so, ends, and serves again when it is started
anew.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeserve.config import Address, address, environment_with
from edgeserve.errors import DeviceLost, EdgeserveError, StageUnavailable
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    FLAGS,
    ONE_THREAD,
    ROOT,
    START_S,
    TOKEN,
    ask,
    engine_settings,
    first_tokens,
    line_with,
    order,
    running_engine,
    tokens_of,
    until,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT = tuple(range(3, 23))
LONG = 3000
END_WITHIN_S = 5.0
"""3 s is the most that a worker takes, however much hangs."""


class BreakingWorker:
    """A process that breaks as told, and is started again where it was."""

    def __init__(self, folder: Path) -> None:
        self.told = folder / "fault"
        self.log = folder / "log"
        self.address = self._start("127.0.0.1:0")

    def _start(self, listen: str) -> Address:
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.breaking_worker", str(self.told),
                 "worker", "--listen", listen, *FLAGS],
                stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True, cwd=ROOT,
                env=environment_with({**ONE_THREAD, "EDGESERVE_TOKEN": TOKEN}),
            )  # fmt: skip
        return address(line_with(self.process, "listening on", START_S).split()[-1])

    def breaks(self, place: str) -> None:
        self.told.write_text(place)

    def ended(self) -> int:
        return self.process.wait(END_WITHIN_S)

    def restart(self) -> None:
        """As a supervisor would."""
        self.told.unlink()
        self._close()
        assert self._start(str(self.address)) == self.address

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._close()

    def _close(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[BreakingWorker]:
    worker = BreakingWorker(tmp_path)
    yield worker
    worker.stop()


@pytest.mark.parametrize("place", ["launch", "finish"])
async def test_a_worker_whose_gpu_fails_ends_and_serves_again_when_it_is_started_anew(
    place: str, breaking: BreakingWorker, workers: tuple[Address, ...], talker: TinyModel
) -> None:
    settings = engine_settings([workers[0], breaking.address], talker.folder)
    async with running_engine(settings) as engine:
        before = await ask(engine, order(PROMPT, 20))
        running = await engine.submit(order(PROMPT, LONG))
        await first_tokens(running, 3)

        breaking.breaks(place)
        with pytest.raises(StageUnavailable) as caught:
            await tokens_of(running)

        _blames(caught.value, 1, breaking.address)
        assert "illegal memory access" in str(caught.value)
        assert "started anew" in str(caught.value)
        assert await asyncio.to_thread(breaking.ended) == DeviceLost.exit_code == 4
        assert "the GPU has failed" in breaking.log.read_text()
        await asyncio.to_thread(until, "lost", lambda: not engine.status().is_ready, 3)
        with pytest.raises(StageUnavailable) as refused:
            await engine.submit(order(PROMPT, 5))
        _blames(refused.value, 1, breaking.address)

        await asyncio.to_thread(breaking.restart)
        await asyncio.to_thread(until, "back", lambda: engine.status().is_ready, 15)
        assert await ask(engine, order(PROMPT, 20)) == before


@pytest.mark.parametrize("place", ["load", "describe"])
async def test_so_does_one_whose_gpu_fails_while_nobody_asks(
    place: str, breaking: BreakingWorker, workers: tuple[Address, ...], talker: TinyModel
) -> None:
    breaking.breaks(place)
    settings = engine_settings([workers[0], breaking.address], talker.folder, connect_timeout=1)

    async def start() -> None:
        async with running_engine(settings):
            pass

    with pytest.raises(EdgeserveError) as caught:
        await start()

    assert str(breaking.address) in str(caught.value)
    assert await asyncio.to_thread(breaking.ended) == DeviceLost.exit_code
    assert "the GPU has failed" in breaking.log.read_text()


@pytest.mark.parametrize("notices", [True, False])
def test_a_loop_that_hangs_does_not_keep_the_process(notices: bool) -> None:
    program = f"""
import asyncio, logging, threading, time
from edgeserve.errors import DeviceLost
from edgeserve.worker import serve
logging.basicConfig()
serve.END_S = 0.2
async def hang():
    fuse = serve.Fuse()
    if {notices}:
        fuse.watched()
    for _ in range(3):
        threading.Thread(target=fuse.blow, args=(DeviceLost("no more"),)).start()
    time.sleep(60)
asyncio.run(hang())
"""
    start_s = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )

    assert process.returncode == 4
    assert process.stderr.count("no more; exit code 4") == 1
    assert time.monotonic() - start_s < 30


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_nor_does_a_log_that_nobody_reads(stream: str) -> None:
    """A full pipe stops whoever writes into it."""
    program = """
import logging, sys, time
from edgeserve.errors import DeviceLost
from edgeserve.worker import serve
logging.basicConfig(stream=sys.STREAM)
sys.STREAM.write("x" * 65536)
sys.STREAM.flush()
serve.END_S = 0.2
serve.LAST_WORDS_S = 0.2
serve.Fuse().blow(DeviceLost("no more"))
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program.replace("STREAM", stream)],
        **{stream: subprocess.PIPE},  # type: ignore[call-overload]
    ) as process:
        try:
            assert process.wait(20) == 4
        finally:
            process.kill()


def _blames(error: StageUnavailable, stage: int, worker: Address) -> None:
    assert error.http_status == 503
    assert error.numbers["stage"] == stage
    assert error.numbers["worker"] == str(worker)
    assert error.numbers["retryable"] is True
    assert f"stage {stage} on worker {worker} is lost" in str(error)
