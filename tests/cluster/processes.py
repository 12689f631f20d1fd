"""Real processes for the tests of this folder: workers, gateways, and engines in a test's own loop.

Every wait is bounded, and whoever starts a process ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings, address, environment_with
from edgeserve.families.folder import open_model
from edgeserve.frames.sampling import Sampling
from edgeserve.launch.processes import Child, start_child
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Generation, Order, Token

TOKEN = "secret-of-the-tests"
START_S = 60.0
ROOT = Path(__file__).parents[2]
ONE_THREAD = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
ON_CPU = {**ONE_THREAD, "EDGESERVE_DEVICE": "cpu"}
"""Whatever card and driver the developer's box has."""
FLAGS = ("--device", "cpu", "--threads", "1", "--memory", "1GB")


def start_worker(
    listen: str = "127.0.0.1:0", flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:  # fmt: skip
    """Announced later: several start at once."""
    return start_child(
        f"worker {listen}",
        ["worker", "--listen", listen, *FLAGS, *flags],
        "edgeserve worker listening on",
        {**ONE_THREAD, "EDGESERVE_TOKEN": TOKEN, **(environment or {})},
    )


def start_gateway(
    workers: Sequence[Address], model: str, *flags: str,
    environment: Mapping[str, str] | None = None,
) -> Child:  # fmt: skip
    return start_child(
        "gateway",
        ["gateway", "--workers", joined(workers), "--model", model, "--listen", "127.0.0.1:0",
         "--dtype", "fp32", "--prefill-chunk", "16", *flags],
        "edgeserve gateway serving at",
        {**ONE_THREAD, "EDGESERVE_TOKEN": TOKEN, **(environment or {})},
    )  # fmt: skip


def joined(workers: Sequence[Address]) -> str:
    return ",".join(map(str, workers))


def announced(child: Child) -> Address:
    """A worker's address."""
    return address(child.wait_until_announced(START_S))


def kill(child: Child) -> None:
    """At once, as the machine's last breath would be; whether it runs or is frozen."""
    child.process.kill()
    child.process.wait(10)


def exit_codes(children: Sequence[Child]) -> list[int]:
    """Ends all of them together."""
    for child in children:
        assert child.process.stdin is not None
        child.process.stdin.close()
    return [child.stop() for child in children]


def freeze(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGSTOP)


def thaw(child: Child) -> None:
    os.kill(child.process.pid, signal.SIGCONT)


def run_edgeserve(
    *arguments: str, timeout_s: float = 30.0, environment: Mapping[str, str] | None = None,
    cwd: Any = None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """A command from start to end."""
    return subprocess.run(
        [sys.executable, "-m", "edgeserve", *arguments],
        capture_output=True, text=True, timeout=timeout_s, check=False, cwd=cwd,
        stdin=subprocess.DEVNULL, env=environment_with({**ON_CPU, **(environment or {})}),
    )  # fmt: skip


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeserve", *arguments],
        stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
        env=environment_with({**ON_CPU, "EDGESERVE_TOKEN": TOKEN}),
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def line_with(process: subprocess.Popen[str], words: str, within_s: float = 30.0) -> str:
    """The next line of its standard output with these words."""
    found: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if words in line:
                found.append(line)
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(within_s)
    assert found, f"no line with {words!r} within {within_s} s"
    return found[0]


def until(what: str, happens: Callable[[], bool], within_s: float) -> float:
    """Asks until it is so; how long that took."""
    start_s = time.monotonic()
    while not happens():
        assert time.monotonic() - start_s < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start_s


@contextmanager
def boxes(caches: Sequence[Path]) -> Iterator[list[Child]]:
    """A worker for each cache, which looks into no other folder."""
    children = [
        start_worker(flags=("--local-files", "off", "--cache", str(each))) for each in caches
    ]
    try:
        yield children
    finally:
        for child in children:
            child.stop()


# -- the pipeline without HTTP


def engine_settings(workers: Sequence[Address], model: str, **more: Any) -> GatewaySettings:
    settings: dict[str, Any] = {
        "dtype": "fp32", "token": TOKEN, "prefill_chunk": 16,
        "cache": os.environ["EDGESERVE_CACHE"], **more,
    }  # fmt: skip
    return GatewaySettings(workers=tuple(workers), model=model, **settings)


@asynccontextmanager
async def running_engine(settings: GatewaySettings) -> AsyncIterator[PipelineEngine]:
    engine = PipelineEngine(settings, open_model(settings.model), MonotonicClock())
    try:
        async with asyncio.timeout(60):
            await engine.start()
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)


def order(prompt: Sequence[int], new_tokens: int, sampling: Sampling | None = None) -> Order:
    return Order(
        prompt=tuple(prompt),
        max_new_tokens=new_tokens,
        sampling=sampling or Sampling(),
        stop_ids=frozenset(),
        received_s=MonotonicClock().now_s(),
    )


async def tokens_of(generation: Generation, within_s: float = 30.0) -> list[int]:
    async with asyncio.timeout(within_s):
        return [token.token async for token in generation]


async def first_tokens(generation: Generation, count: int, within_s: float = 30.0) -> list[Token]:
    async with asyncio.timeout(within_s):
        return [await anext(generation) for _ in range(count)]


async def ask(engine: PipelineEngine, what: Order) -> list[int]:
    return await tokens_of(await engine.submit(what))


# -- a cluster to break


class Cluster:
    """Three workers that may be killed, frozen, and started again where they were."""

    def __init__(self, flags: Sequence[str] = ()) -> None:
        self.flags = flags
        self.children = [start_worker(flags=flags) for _ in range(3)]
        self.addresses = tuple(announced(child) for child in self.children)

    def kill(self, i: int) -> None:
        kill(self.children[i])
        self.children[i].stop()  # closes its pipe

    def restart(self, i: int) -> None:
        self.children[i] = start_worker(str(self.addresses[i]), self.flags)
        assert announced(self.children[i]) == self.addresses[i]

    def heal(self) -> None:
        for i, child in enumerate(self.children):
            if child.process.poll() is None:
                thaw(child)
            else:
                self.restart(i)

    def stop(self) -> None:
        assert exit_codes(self.children) == [0, 0, 0]


async def weights(engine: PipelineEngine) -> list[dict[str, Any]]:
    """Where those of each stage came from."""
    return [each["weights"] for each in (await engine.cluster())["stages"]]
