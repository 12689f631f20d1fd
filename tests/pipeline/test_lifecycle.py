"""Every edge in a pipeline's life, driven by fake workers: no process, no network, no waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings
from edgeserve.errors import DoesNotFit, EdgeserveError, StageUnavailable, WireError
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline import cluster, lifecycle
from edgeserve.pipeline.generation import Order, Published
from edgeserve.pipeline.lifecycle import EDGES, Edge, Hooks, Lifecycle, State
from edgeserve.pipeline.supply import Supplier
from edgeserve.plan.facts import Plan
from tests.pages import page_text, rows_of, section_of
from tests.pipeline.fake_worker import FakeWorker

pytestmark = pytest.mark.asyncio
ADDRESSES = tuple(Address(f"box{i}", 50051) for i in range(3))
MODEL = open_model("llama-2-13b")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is tried again is tried again in the next turns of the loop."""
    monkeypatch.setattr(lifecycle, "REBUILD_PERIOD_S", 0.0)
    monkeypatch.setattr(lifecycle, "TICK_S", 0.01)
    monkeypatch.setattr(cluster, "RETRY_PERIOD_S", 0.001)


@dataclass(kw_only=True, eq=False)
class Living:
    """A pipeline, its workers, and what it has told."""

    life: Lifecycle
    workers: list[FakeWorker]
    told: list[EdgeserveError | None] = field(default_factory=list)

    def state(self) -> State:
        return self.life.state

    def status(self) -> tuple[str, int | None]:
        return self.life.published.status.phase, self.life.published.status.stage

    async def until(self, state: State) -> None:
        await self.happens(lambda: self.life.state is state)

    async def happens(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(2):
            while not happened():
                await asyncio.sleep(0)


@asynccontextmanager
async def living(
    *, hooks: Hooks | None = None, change: Callable[[list[FakeWorker]], None] | None = None
) -> AsyncIterator[Living]:
    workers = [FakeWorker(address=each) for each in ADDRESSES]
    if change is not None:
        change(workers)
    by_address = {each.address: each for each in workers}
    life = Lifecycle(
        settings=GatewaySettings(workers=ADDRESSES, connect_timeout=0.0),
        source=MODEL,
        supplier=Supplier(MODEL, Path()),
        clock=MonotonicClock(),
        connect=by_address.__getitem__,
        published=Published(),
        http_loop=asyncio.get_running_loop(),
        hooks=hooks or Hooks(),
    )
    pipeline = Living(life=life, workers=workers)
    task = asyncio.create_task(life.run(pipeline.told.append))
    try:
        yield pipeline
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            async with asyncio.timeout(2):
                await task
        assert {each.closed for each in workers} == {1}, "every connection is closed once"


def order() -> Order:
    return Order(
        prompt=(1, 2), max_new_tokens=4, sampling=Sampling(), stop_ids=frozenset(), received_s=0.0
    )


async def test_workers_that_answer_are_loaded_and_serve() -> None:
    plans: list[Plan] = []
    hooks = Hooks(planned=lambda plan, simulation: plans.append(plan))
    async with living(hooks=hooks) as pipeline:
        assert pipeline.status() == ("starting", None)
        with pytest.raises(StageUnavailable, match="the workers are being connected"):
            pipeline.life.arrive(order())
        await pipeline.until(State.SERVING)
        assert pipeline.told == [None]
        assert pipeline.status() == ("ready", None)
        assert pipeline.life.cluster_state().plan is plans[0]
        orders = [each.orders[-1] for each in pipeline.workers]
        assert [each.stage for each in orders] == [each.stage for each in plans[0].stages]
        assert len({each.epoch for each in orders}) == 1
        pipeline.life.arrive(order())
        assert pipeline.life.cluster_state().statistics.running == 1
    assert pipeline.state() is State.STOPPED
    assert all(each.streams[-1].is_cancelled for each in pipeline.workers)


async def test_a_worker_that_does_not_answer_in_time_ends_the_start_and_is_named() -> None:
    def change(workers: list[FakeWorker]) -> None:
        workers[1].unreachable = True

    async with living(change=change) as pipeline:
        await pipeline.until(State.FAILED)
        (error,) = pipeline.told
        assert isinstance(error, StageUnavailable)
        assert str(ADDRESSES[1]) in str(error)


async def test_a_plan_that_does_not_fit_ends_the_start() -> None:
    def change(workers: list[FakeWorker]) -> None:
        for each in workers:
            each.description = replace(each.description, memory_bytes=10**9)

    async with living(change=change) as pipeline:
        await pipeline.until(State.FAILED)
        assert isinstance(pipeline.told[0], DoesNotFit)
        assert not any(each.orders for each in pipeline.workers)


async def test_a_stage_that_cannot_be_loaded_ends_the_start() -> None:
    def change(workers: list[FakeWorker]) -> None:
        workers[2].load_error = DoesNotFit("too little memory")

    async with living(change=change) as pipeline:
        await pipeline.until(State.FAILED)
        assert isinstance(pipeline.told[0], DoesNotFit)


async def test_a_gateway_that_stops_while_it_loads_closes_what_it_has_opened() -> None:
    def change(workers: list[FakeWorker]) -> None:
        workers[0].holds_back = asyncio.Event()

    async with living(change=change) as pipeline:
        await pipeline.happens(lambda: bool(pipeline.workers[0].orders))
        assert pipeline.state() is State.LOADING
    assert pipeline.state() is State.STOPPED
    assert pipeline.told == []


async def test_a_lost_stage_is_named_and_comes_back_in_a_later_epoch() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        first = pipeline.workers[1].orders[-1].epoch
        generation = pipeline.life.arrive(order())
        pipeline.workers[1].unreachable = True
        pipeline.workers[1].die()
        await pipeline.until(State.RECONNECTING)
        assert pipeline.status() == ("stage_lost", 1)
        with pytest.raises(StageUnavailable):
            await anext(generation)
        with pytest.raises(StageUnavailable):
            pipeline.life.arrive(order())
        await pipeline.happens(lambda: "not back yet" in pipeline.life.published.status.reason)
        pipeline.workers[1].unreachable = False
        await pipeline.until(State.SERVING)
        assert pipeline.status() == ("ready", None)
        assert {each.orders[-1].epoch > first for each in pipeline.workers} == {True}
        assert pipeline.life.cluster_state().observer.stages[1].lost == 1
        pipeline.life.arrive(order())


async def test_a_stage_that_is_lost_again_while_it_loads_is_tried_again() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        worker = pipeline.workers[2]
        worker.load_error = StageUnavailable("it died while it loaded")
        worker.die()
        await pipeline.happens(lambda: len(worker.orders) >= 3)
        assert pipeline.state() in (State.RECONNECTING, State.RELOADING)
        worker.load_error = None
        await pipeline.until(State.SERVING)


async def test_a_pipeline_that_loses_two_stages_one_after_the_other_comes_back_twice() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        for lost, worker in enumerate(pipeline.workers[:2], 1):
            worker.die()
            await pipeline.happens(lambda: pipeline.state() is not State.SERVING)
            await pipeline.until(State.SERVING)
            stages = pipeline.life.cluster_state().observer.stages
            assert sum(each.lost for each in stages) == lost
        assert [len(each.orders) for each in pipeline.workers] == [3, 3, 3]


async def test_a_worker_that_comes_back_as_another_one_is_waited_for() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        worker, orders = pipeline.workers[0], len(pipeline.workers[0].orders)
        as_it_was = worker.description
        worker.description = replace(as_it_was, dtypes=(Dtype.BF16,))
        worker.die()
        await pipeline.happens(lambda: "computes in bf16" in pipeline.life.published.status.reason)
        assert pipeline.state() is State.RECONNECTING
        assert len(worker.orders) == orders, "it was not told to load"
        worker.description = as_it_was
        await pipeline.until(State.SERVING)


async def test_a_worker_that_says_it_holds_another_slice_is_not_served_with() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        worker = pipeline.workers[0]
        worker.load_error = WireError("it holds layers [0, 3)")
        worker.die()
        await pipeline.happens(lambda: "[0, 3)" in pipeline.life.published.status.reason)
        worker.load_error = None
        await pipeline.until(State.SERVING)


async def test_a_pipeline_that_a_later_gateway_took_over_stands_aside_for_good() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        worker = pipeline.workers[1]
        later = worker.orders[-1].epoch + 1
        worker.description = replace(worker.description, epoch=later)
        orders = [len(each.orders) for each in pipeline.workers]
        worker.die("the stage was taken over")
        await pipeline.until(State.SUPERSEDED)
        for _ in range(50):
            await asyncio.sleep(0)
        assert pipeline.state() is State.SUPERSEDED
        assert [len(each.orders) for each in pipeline.workers] == orders
        with pytest.raises(StageUnavailable, match="taken over") as refused:
            pipeline.life.arrive(order())
        assert refused.value.numbers["stage"] == 1
    assert pipeline.state() is State.STOPPED


async def test_a_gateway_that_stops_while_it_rebuilds_stops_at_once() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        pipeline.workers[0].unreachable = True
        pipeline.workers[0].die()
        await pipeline.until(State.RECONNECTING)
    assert pipeline.state() is State.STOPPED


async def test_a_fault_of_ours_is_told_to_whoever_waits_and_to_all_who_come() -> None:
    def planned(_plan: Plan, _simulation: str | None) -> None:
        raise ZeroDivisionError("a mistake")

    async with living(hooks=Hooks(planned=planned)) as pipeline:
        await pipeline.until(State.BROKEN)
        await pipeline.happens(lambda: bool(pipeline.told))
        assert "ZeroDivisionError" in str(pipeline.told[0])
        with pytest.raises(StageUnavailable, match="a fault of edgeserve"):
            pipeline.life.arrive(order())


async def test_what_no_edge_allows_does_not_happen() -> None:
    async with living() as pipeline:
        await pipeline.until(State.SERVING)
        with pytest.raises(AssertionError, match="no edge from serving to loading"):
            pipeline.life._enter(State.LOADING)


async def test_the_page_shows_the_table() -> None:
    rows = rows_of(section_of(page_text("docs/lifecycles.md"), "## A pipeline"))

    assert [Edge(State(start), event, State(end)) for start, event, end in rows] == [
        each for each in EDGES if each.end not in (State.STOPPED, State.BROKEN)
    ]
