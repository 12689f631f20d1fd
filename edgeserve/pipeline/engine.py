"""The pipeline as the HTTP side sees it: a thread with its own event loop, so that no request can
delay a frame.

Connects, plans and loads; then serves, and whenever a stage is lost builds the pipeline again:
workers that still hold their slice answer at once, one that was restarted loads it. Each build is a
new epoch, so that nothing of the one before can reach a stage.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edgeserve.clock import Clock
from edgeserve.config import GatewaySettings, cache_folder
from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.families.folder import ModelSource
from edgeserve.pipeline.cluster import (
    LoadedStage,
    Member,
    OnProgress,
    check_still_suits,
    connect,
    load,
    next_epoch,
    plan_for,
    prefill_chunk,
    processors,
    simulation_of,
)
from edgeserve.pipeline.deadline import SilenceBound
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Generation, Order, Seen, Status
from edgeserve.pipeline.relay import Relay, StageLink
from edgeserve.pipeline.state import ClusterState, StageState, cluster_document
from edgeserve.pipeline.supply import Supplier
from edgeserve.plan.facts import Plan
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.ledger import StageLabel
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.loop import run_on_loop
from edgeserve.wire.messages import LoadOrder

log = logging.getLogger(__name__)

TICK_S = 0.5
DRAIN_POLL_S = 0.05
REBUILD_PERIOD_S = 1.0
STATE_TIMEOUT_S = 1.0
"""For the pipeline's thread to copy its state: a thousand times what it takes on a busy box."""
DRAINING = Status(phase="draining", reason="the gateway is shutting down")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Whom to tell, called on the pipeline's thread."""

    planned: Callable[[Plan, str | None], None] = lambda plan, simulation: None
    """With `cluster.simulation_of` the workers."""
    progress: OnProgress = lambda stage, progress: None


class PipelineEngine:
    """Implements `generation.Engine`. `start` it on the HTTP side's loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        source: ModelSource,
        clock: Clock,
        hooks: Hooks | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._supplier = Supplier(source, cache_folder(settings.cache))
        self._clock = clock
        self._hooks = hooks or Hooks()
        self._status = Status(phase="starting", reason="the workers are being connected")
        self._plan: Plan | None = None
        self._built: tuple[tuple[LoadedStage, StageLink], ...] = ()
        self._epoch = 0
        self._driver: Driver | None = None
        self._is_draining = False
        self._last_state = ClusterState()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    # -- the HTTP side

    def start(self) -> asyncio.Future[None]:
        """The future is done when the first token can be asked for, or has the error that prevents
        it.
        """
        http_loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = http_loop.create_future()

        def report(error: EdgeserveError | None) -> None:
            http_loop.call_soon_threadsafe(_settle, ready, error)

        self._thread = threading.Thread(
            target=lambda: run_on_loop(self._main(http_loop, report)), name="pipeline", daemon=True
        )
        self._thread.start()
        return ready

    async def submit(self, order: Order) -> Generation:
        driver = self._driver
        if driver is None or self._status_now.phase in ("starting", "draining"):
            raise self._unavailable()

        async def arrive() -> Generation:
            return driver.arrived(order)

        return await self._on_pipeline(arrive())

    def status(self) -> Status:
        """Read as single references, each of which one thread replaces whole."""
        driver = self._driver
        last_s = driver.last_frame_s if driver else None
        since_s = None if last_s is None else self._clock.now_s() - last_s
        simulation = simulation_of([stage.member.description for stage, _ in self._built])
        return replace(self._status_now, since_last_frame_s=since_s, simulation=simulation)

    async def cluster(self) -> dict[str, Any]:
        state = await self._state()
        return cluster_document(self._source, self.status(), state, self._clock.now_s())

    async def seen(self) -> Seen | None:
        return (await self._state()).seen

    async def drain(self, timeout_s: float) -> None:
        self._is_draining = True
        deadline_s = self._clock.now_s() + timeout_s
        # Asked across threads, once in a gateway's life: polling is simpler than an event.
        while await self._busy() and self._clock.now_s() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL_S)
        if await self._busy():
            with suppress(TimeoutError):
                async with asyncio.timeout(STATE_TIMEOUT_S):
                    await self._on_pipeline(self._cut_off(timeout_s))

    def stop(self) -> None:
        """Ends the thread. Returns when it has ended, in a few seconds at most."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(timeout=10.0)

    async def _cut_off(self, timeout_s: float) -> None:
        """Requests that outlast the drain end with an error, not with half an answer."""
        assert self._driver is not None
        error = StageUnavailable(
            f"the gateway is shutting down, and the {timeout_s:g} s that running requests had are "
            "over; send the request again when it is back"
        )
        self._driver.stage_lost(error)

    @property
    def _status_now(self) -> Status:
        """A gateway that drains stays so, whatever becomes of its stages."""
        return DRAINING if self._is_draining else self._status

    async def _state(self) -> ClusterState:
        """As it is now; of a thread that is too busy to answer, or has ended, as it last was."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            with suppress(TimeoutError):
                async with asyncio.timeout(STATE_TIMEOUT_S):
                    self._last_state = await self._on_pipeline(self._take_state())
        return self._last_state

    async def _busy(self) -> bool:
        now = (await self._state()).statistics
        return now.running + now.waiting > 0

    def _unavailable(self) -> StageUnavailable:
        status = self._status_now
        return StageUnavailable(
            f"no token can be produced now: {status.reason}",
            stage=status.stage,
            worker=status.worker,
        )

    async def _on_pipeline(self, work: Coroutine[Any, Any, Result]) -> Result:
        assert self._loop is not None
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # -- the pipeline's thread

    async def _take_state(self) -> ClusterState:
        """Copies, which takes some 30 microseconds, and computes nothing."""
        driver = self._driver
        if driver is None or self._plan is None:
            return ClusterState()
        return ClusterState(
            plan=self._plan,
            statistics=driver.scheduler.statistics(),
            observer=driver.observer.copied(),
            stages=tuple(
                StageState(number=link.stage, stage=stage, hops=tuple(link.recent))
                for stage, link in self._built
            ),
        )

    async def _main(
        self, http_loop: asyncio.AbstractEventLoop, report: Callable[[EdgeserveError | None], None]
    ) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        clients = [WorkerClient(each, self._settings.token) for each in self._settings.workers]
        serving = asyncio.create_task(self._serve(clients, http_loop, report))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done() and (fault := serving.exception()) is not None:
            self._broke(fault, report)
            await stopping
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        for client in clients:
            await client.close()

    def _broke(self, fault: BaseException, report: Callable[[EdgeserveError | None], None]) -> None:
        """A mistake of ours: whoever waits is told, and from now on everybody at once."""
        log.error("the pipeline broke", exc_info=fault)
        error = StageUnavailable(
            f"a fault of edgeserve ended the pipeline ({type(fault).__name__}: {fault}); restart "
            "the gateway",
            retryable=False,
        )
        self._status = Status(phase="stage_lost", reason=str(error))
        report(error)
        if self._driver is not None:
            self._driver.stage_lost(error)

    async def _serve(
        self,
        clients: list[WorkerClient],
        http_loop: asyncio.AbstractEventLoop,
        report: Callable[[EdgeserveError | None], None],
    ) -> None:
        try:
            members = await connect(clients, self._settings.connect_timeout, self._clock)
            self._plan = plan_for(self._settings, self._source, members)
            simulation = simulation_of([member.description for member in members])
            self._hooks.planned(self._plan, simulation)
            self._driver = self._new_driver(members, self._plan, http_loop)
            await self._build(members, self._plan)
        except EdgeserveError as error:
            report(error)
            return
        await self._run_for_ever(clients, self._driver, lambda: report(None))

    async def _run_for_ever(
        self, clients: list[WorkerClient], driver: Driver, on_ready: Callable[[], None]
    ) -> None:
        """One turn is the life of one pipeline: until a stage is lost, then until all are back."""
        while True:
            await self._run_until_lost(driver, on_ready)
            await self._rebuild(clients, driver)
            log.info("all stages are back")

    async def _run_until_lost(self, driver: Driver, on_ready: Callable[[], None]) -> None:
        lost: asyncio.Future[StageUnavailable] = asyncio.get_running_loop().create_future()
        links = [link for _, link in self._built]
        relay = Relay(links, self._clock, on_trip=driver.trip_done, on_lost=lost.set_result)
        relay.start()
        driver.stages_ready(relay)
        self._status = Status(phase="ready")
        on_ready()
        try:
            while not (await asyncio.wait({lost}, timeout=TICK_S))[0]:
                driver.ticked()
            error = lost.result()
            log.warning("%s", error)
            where = {"stage": error.numbers["stage"], "worker": error.numbers["worker"]}
            driver.observer.stages[where["stage"]].lost += 1
            self._status = Status(phase="stage_lost", reason=str(error), **where)
            driver.stage_lost(error)
        finally:
            await relay.close()

    async def _rebuild(self, clients: list[WorkerClient], driver: Driver) -> None:
        """Until it works. Requests are refused meanwhile, so there is nobody who waits."""
        assert self._plan is not None
        lost = self._status
        while True:
            try:
                members = await connect(clients, self._settings.connect_timeout, self._clock)
                await self._stand_aside_for_newer(members, driver)
                check_still_suits(self._plan, members)
                await self._build(members, self._plan)
            except EdgeserveError as error:
                log.warning("not back yet: %s", error)
                self._status = replace(lost, reason=f"{lost.reason}; not back yet: {error}")
                await asyncio.sleep(REBUILD_PERIOD_S)
            else:
                return

    async def _stand_aside_for_newer(self, members: tuple[Member, ...], driver: Driver) -> None:
        """Never returns if a gateway that started later has a worker.

        To take it back would be to lose it again to that one's next turn, and so on for ever.
        """
        for stage, member in enumerate(members):
            if member.description.epoch <= self._epoch:
                continue
            error = StageUnavailable(
                f"worker {member.name} was taken over by a gateway that started later; stop that "
                "one and restart this one, or send requests there",
                stage=stage, worker=member.name, retryable=False,
            )  # fmt: skip
            log.error("%s", error)
            status = Status(phase="stage_lost", reason=str(error), stage=stage, worker=member.name)
            self._status = status
            driver.stage_lost(error)
            await asyncio.Event().wait()

    async def _build(self, members: tuple[Member, ...], plan: Plan) -> None:
        self._epoch = epoch = next_epoch(members)
        limits = self._limits(members, plan)

        def order(i: int) -> LoadOrder:
            return LoadOrder(
                epoch=epoch,
                model=self._source.reference,
                spec_hash=self._source.spec.spec_hash,
                stage=plan.stages[i].stage,
                dtype=plan.dtype,
                pages=plan.pages,
                frame_tokens_max=limits.frame_tokens_max,
            )

        stages = await load(plan, members, order, self._supplier, self._hooks.progress)
        self._built = tuple((stage, self._link(i, stage)) for i, stage in enumerate(stages))

    def _link(self, number: int, stage: LoadedStage) -> StageLink:
        return StageLink(
            stage=number,
            worker=stage.member.name,
            stream=stage.stream,
            silence=SilenceBound(ceiling_s=self._settings.step_timeout),
        )

    def _limits(self, members: tuple[Member, ...], plan: Plan) -> Limits:
        settings = self._settings
        return Limits(
            stages=len(plan.stages),
            processors=processors(members),
            pages=plan.pages,
            context_tokens=self._source.spec.context_tokens,
            micro_batches=settings.micro_batches or None,
            max_running=settings.max_running,
            max_waiting=settings.max_waiting,
            prefill_chunk=prefill_chunk(settings, members),
            decode_slowdown=settings.decode_slowdown,
            queue_timeout_s=settings.queue_timeout,
            prefix_cache=settings.prefix_cache == "on",
        )

    def _new_driver(
        self, members: tuple[Member, ...], plan: Plan, http_loop: asyncio.AbstractEventLoop
    ) -> Driver:
        labels = tuple(
            StageLabel(
                stage=i,
                worker=each.worker,
                layers=(each.stage.layers.start, each.stage.layers.end),
            )
            for i, each in enumerate(plan.stages)
        )
        scheduler = Scheduler(self._limits(members, plan))
        speculate = self._settings.speculate
        drafts = None if speculate == "auto" else 0 if speculate == "off" else int(speculate)
        return Driver(scheduler, labels, self._clock, http_loop, drafts)


def _settle(ready: asyncio.Future[None], error: EdgeserveError | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
