"""What the HTTP side gets of the pipeline: copies that its own thread took, at any moment."""

from __future__ import annotations

import ast
import asyncio
import itertools
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline import engine as engine_module
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Status
from edgeserve.pipeline.state import median_ms
from edgeserve.schedule.limits import Statistics
from edgeserve.timing.hop import Hop
from edgeserve.timing.observer import Step
from edgeserve.wire.messages import Description, Loaded, LoadOrder, LoadProgress
from edgeserve.wire.server import WorkerServer
from tests.wire.fake_worker import LOOPBACK, FakeHandler

pytestmark = pytest.mark.asyncio
READS = 100


class ObedientHandler(FakeHandler):
    """Holds at once whatever it is told to hold."""

    def describe(self) -> Description:
        return Description(
            device="cpu", device_name="fake", memory_bytes=2**40, reserve_bytes=0,
            memory_bytes_per_s=0.0, dtypes=(Dtype.FP32,), epoch=0, loaded=None,
        )  # fmt: skip

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        self.epoch = order.epoch
        loaded = Loaded(
            spec_hash=order.spec_hash, slice_hash="", stage=order.stage, dtype=order.dtype,
            pages=order.pages, slice_bytes=1, random_weights=True, load_s=0.0,
        )  # fmt: skip
        yield LoadProgress(bytes_done=1, bytes_total=1, loaded=loaded)


@asynccontextmanager
async def ready_engine() -> AsyncIterator[PipelineEngine]:
    """A real one, with a worker that computes nothing."""
    server = WorkerServer(ObedientHandler(), "")
    where: Address = await server.start(LOOPBACK)
    settings = GatewaySettings(workers=(where,))
    engine = PipelineEngine(settings, open_model("llama-2-13b"), MonotonicClock())
    try:
        await engine.start()
        yield engine
    finally:
        await asyncio.to_thread(engine.stop)
        await server.stop(0.1)


def driver_of(engine: PipelineEngine) -> Driver:
    assert engine._lifecycle is not None
    driver = engine._lifecycle._driver
    assert driver is not None
    return driver


def on_pipeline(engine: PipelineEngine, work: Callable[[], object]) -> None:
    """Now and in each following turn of its loop."""
    loop = engine._loop
    assert loop is not None

    def turn() -> None:
        work()
        loop.call_soon(turn)

    loop.call_soon_threadsafe(turn)


@contextmanager
def threads_that_take_turns() -> Iterator[None]:
    """As often as the interpreter can, and not only every 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.slow
async def test_whoever_asks_while_the_pipeline_writes_gets_an_answer() -> None:
    async with ready_engine() as engine:
        driver = driver_of(engine)
        sizes = itertools.count(1)

        def write() -> None:
            size = next(sizes)
            driver.scheduler._frames.times.learn(size, (0.01,), 0.001)
            driver.observer.requests.failed(f"error {size}")
            driver.observer.step(_step(size))

        on_pipeline(engine, write)
        with threads_that_take_turns():
            for _ in range(READS):
                document, seen = await engine.cluster(), await engine.seen()
                assert seen is not None
                assert len(document["step_ms"]) <= len(seen.statistics.step_ms)
                errors = sum(seen.observer.requests.errors.values())
                compute = seen.observer.stages[0].compute.at_most()[-1]
                assert seen.observer.frames == compute == errors == len(seen.statistics.step_ms)
                #      of one moment: what is written together is read together


async def test_the_pipelines_thread_alone_reads_what_it_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ready_engine() as engine:
        driver = driver_of(engine)
        readers: set[str] = set()

        def statistics() -> Statistics:
            readers.add(threading.current_thread().name)
            return Statistics(running=1)

        monkeypatch.setattr(driver.scheduler, "statistics", statistics)
        assert (await engine.cluster())["requests"]["running"] == 1
        seen = await engine.seen()
        await engine.drain(0.01)
        assert readers == {"pipeline"}
        engine._published.status = Status(phase="ready")  # as when a stage comes back
        assert engine.status().phase == "draining", "it stays so"
        assert (await engine.cluster())["status"]["phase"] == "draining"
        assert seen is not None
        driver.observer.requests.failed("later")
        assert seen.observer.requests.errors["later"] == 0, "it is a copy"


async def test_a_pipeline_that_does_not_answer_in_time_is_told_as_it_last_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "STATE_TIMEOUT_S", 0.05)
    async with ready_engine() as engine:
        before = await engine.cluster()
        held, let_go = threading.Event(), threading.Event()
        assert engine._loop is not None
        engine._loop.call_soon_threadsafe(held.set)
        engine._loop.call_soon_threadsafe(let_go.wait, 10)
        assert await asyncio.to_thread(held.wait, 10)
        try:
            async with asyncio.timeout(5):
                during = await engine.cluster()
        finally:
            let_go.set()
    assert _without_times(during) == _without_times(before)
    assert during["pages"]["total"] > 0
    assert _without_times(await engine.cluster()) == _without_times(before), "its thread has ended"


async def test_the_bridge_touches_the_pipelines_life_on_the_pipelines_thread_alone() -> None:
    source = await asyncio.to_thread(Path(engine_module.__file__).read_text)
    methods = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    reads = {
        method.name
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and node.attr == "_lifecycle"
    }

    assert reads == {"__init__", "start", "_on_pipeline", "_main"}, "made, handed over, and run"


def _step(frame: int) -> Step:
    hop = Hop(stage=0, sent_s=0.0, returned_s=0.01, inside=StageTime(compute_s=0.005))
    return Step(frame=frame, tokens=1, sequences=1, ordered_s=0.0, hops=(hop,), done_s=0.01)


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "tokens_per_s"}


async def test_recent_times_are_medians_of_each_kind_and_add_up_to_the_visit() -> None:
    kinds = ("compute_ms", "transfer_ms", "waiting_ms", "other_ms")
    assert median_ms(()) == dict.fromkeys(kinds, 0.0)
    hops = []
    for slower in (1, 2, 100):  # the last one is an outlier
        inside = StageTime(queue_s=2e-3, decode_s=1e-3, compute_s=4e-3 * slower, encode_s=0.5e-3)
        returned_s = 7.5e-3 + inside.compute_s + 0.25e-3 * slower
        hops.append(Hop(stage=0, sent_s=4e-3, returned_s=returned_s, inside=inside))
    assert median_ms(hops) == {
        "compute_ms": 8.0, "transfer_ms": 0.5, "waiting_ms": 2.0, "other_ms": 1.5
    }  # fmt: skip
