"""The life of a pipeline: it connects, plans and loads, serves until a stage is lost, and is built
again until the gateway stops.

`EDGES` is all that can happen to it, and docs/lifecycles.md shows the same table. Each build is a
new epoch, so that nothing of the one before can reach a stage: workers that still hold their slice
answer at once, one that was restarted loads it.

Runs on the pipeline's loop alone. Its connections are made by a function that it is given, so that
a test drives it without a process. Refuses to know HTTP and threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from edgeserve.clock import Clock
from edgeserve.config import GatewaySettings
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
    simulation_of,
)
from edgeserve.pipeline.connection import Connect, Connection
from edgeserve.pipeline.deadline import SilenceBound
from edgeserve.pipeline.driver import Driver
from edgeserve.pipeline.generation import Generation, Order, Published, Status
from edgeserve.pipeline.relay import Relay, StageLink
from edgeserve.pipeline.scheduling import drafts_of, limits_for, stage_labels
from edgeserve.pipeline.state import ClusterState, StageState
from edgeserve.pipeline.supply import Supplier
from edgeserve.plan.facts import Plan
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.wire.messages import LoadOrder

log = logging.getLogger(__name__)

TICK_S = 0.5
REBUILD_PERIOD_S = 1.0


class State(StrEnum):
    CONNECTING = "connecting"
    LOADING = "loading"
    SERVING = "serving"
    RECONNECTING = "reconnecting"
    RELOADING = "reloading"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    BROKEN = "broken"
    STOPPED = "stopped"


class Edge(NamedTuple):
    start: State
    event: str
    end: State


_ENDS = (State.FAILED, State.BROKEN, State.STOPPED)
EDGES = (
    Edge(State.CONNECTING, "every worker answers, and a plan fits them", State.LOADING),
    Edge(State.CONNECTING, "a worker does not answer in time, or no plan fits", State.FAILED),
    Edge(State.LOADING, "every stage is loaded", State.SERVING),
    Edge(State.LOADING, "a stage cannot be loaded", State.FAILED),
    Edge(State.SERVING, "a stage is lost", State.RECONNECTING),
    Edge(State.RECONNECTING, "every worker answers, and suits the plan", State.RELOADING),
    Edge(State.RECONNECTING, "a worker does not answer, or is another one", State.RECONNECTING),
    Edge(State.RECONNECTING, "a worker has been taken by a later gateway", State.SUPERSEDED),
    Edge(State.RELOADING, "every stage is loaded", State.SERVING),
    Edge(State.RELOADING, "a stage cannot be loaded", State.RECONNECTING),
    *(
        edge
        for state in State
        if state not in _ENDS
        for edge in (
            Edge(state, "the gateway stops", State.STOPPED),
            Edge(state, "a fault of edgeserve", State.BROKEN),
        )
    ),
)
_ALLOWED = frozenset((edge.start, edge.end) for edge in EDGES)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Whom to tell, called on the pipeline's thread."""

    planned: Callable[[Plan, str | None], None] = lambda plan, simulation: None
    """With `cluster.simulation_of` the workers."""
    progress: OnProgress = lambda stage, progress: None


Report = Callable[[EdgeserveError | None], None]
"""Is told that the first token can be asked for, or the error that prevents it."""


@dataclass(kw_only=True, eq=False)
class Lifecycle:
    settings: GatewaySettings
    source: ModelSource
    supplier: Supplier
    clock: Clock
    connect: Connect
    published: Published
    http_loop: asyncio.AbstractEventLoop
    """Where generations are read."""
    hooks: Hooks = field(default_factory=Hooks)
    state: State = State.CONNECTING
    _plan: Plan | None = None
    _built: tuple[tuple[LoadedStage, StageLink], ...] = ()
    _epoch: int = 0
    _driver: Driver | None = None

    async def run(self, report: Report) -> None:
        """Lives until it is cancelled; returns early if the pipeline could not be started."""
        connections = [self.connect(each) for each in self.settings.workers]
        living = asyncio.create_task(self._live(connections, report))
        try:
            await asyncio.wait({living})
            if (fault := living.exception()) is not None:
                self._broke(fault, report)
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.state not in _ENDS:
                self._enter(State.STOPPED)
            raise
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            for each in connections:
                await each.close()

    # -- what others ask for

    def arrive(self, order: Order) -> Generation:
        """Raises the error that refuses it."""
        if self._driver is None:
            raise unavailable(self.published.status)
        return self._driver.arrived(order)

    def cut_off(self, error: StageUnavailable) -> None:
        """Ends what runs and waits."""
        if self._driver is not None:
            self._driver.stage_lost(error)

    def cluster_state(self) -> ClusterState:
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

    # -- its life

    async def _live(self, connections: Sequence[Connection], report: Report) -> None:
        try:
            driver = await self._start(connections)
        except EdgeserveError as error:
            self._enter(State.FAILED)
            report(error)
            return
        while True:
            await self._serve(driver, lambda: report(None))
            await self._rebuild(connections, driver)
            log.info("all stages are back")

    async def _start(self, connections: Sequence[Connection]) -> Driver:
        members = await connect(connections, self.settings.connect_timeout, self.clock)
        self._plan = plan = plan_for(self.settings, self.source, members)
        self.hooks.planned(plan, simulation_of([each.description for each in members]))
        self._driver = driver = self._new_driver(members, plan)
        self._enter(State.LOADING)
        await self._load(members, plan)
        return driver

    async def _serve(self, driver: Driver, on_ready: Callable[[], None]) -> None:
        """Returns when a stage is lost."""
        lost: asyncio.Future[StageUnavailable] = asyncio.get_running_loop().create_future()
        links = [link for _, link in self._built]
        relay = Relay(links, self.clock, on_trip=driver.trip_done, on_lost=lost.set_result)
        relay.start()
        driver.stages_ready(relay)
        self._enter(State.SERVING, Status(phase="ready"))
        on_ready()
        try:
            while not (await asyncio.wait({lost}, timeout=TICK_S))[0]:
                driver.ticked()
            self._lost(lost.result(), driver)
        finally:
            await relay.close()

    def _lost(self, error: StageUnavailable, driver: Driver) -> None:
        log.warning("%s", error)
        where = {"stage": error.numbers["stage"], "worker": error.numbers["worker"]}
        driver.observer.stages[where["stage"]].lost += 1
        status = Status(phase="stage_lost", reason=str(error), **where)
        self._enter(State.RECONNECTING, status)
        driver.stage_lost(error)

    async def _rebuild(self, connections: Sequence[Connection], driver: Driver) -> None:
        """Until it works. Requests are refused meanwhile, so there is nobody who waits."""
        assert self._plan is not None
        lost = self.published.status
        while True:
            try:
                members = await connect(connections, self.settings.connect_timeout, self.clock)
                await self._stand_aside_for_later(members, driver)
                check_still_suits(self._plan, members)
                self._enter(State.RELOADING)
                await self._load(members, self._plan)
            except EdgeserveError as error:
                log.warning("not back yet: %s", error)
                reason = f"{lost.reason}; not back yet: {error}"
                self._enter(State.RECONNECTING, replace(lost, reason=reason))
                await asyncio.sleep(REBUILD_PERIOD_S)
            else:
                return

    async def _stand_aside_for_later(self, members: Sequence[Member], driver: Driver) -> None:
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
            self._enter(State.SUPERSEDED, status)
            driver.stage_lost(error)
            await asyncio.Event().wait()

    async def _load(self, members: Sequence[Member], plan: Plan) -> None:
        self._epoch = epoch = next_epoch(members)
        limits = limits_for(self.settings, self.source, members, plan)

        def order(i: int) -> LoadOrder:
            return LoadOrder(
                epoch=epoch,
                model=self.source.reference,
                spec_hash=self.source.spec.spec_hash,
                stage=plan.stages[i].stage,
                dtype=plan.dtype,
                pages=plan.pages,
                frame_tokens_max=limits.frame_tokens_max,
            )

        stages = await load(plan, members, order, self.supplier, self.hooks.progress)
        self._built = tuple((stage, self._link(i, stage)) for i, stage in enumerate(stages))
        self.published.simulation = simulation_of([each.member.description for each in stages])

    def _link(self, number: int, stage: LoadedStage) -> StageLink:
        return StageLink(
            stage=number,
            worker=stage.member.name,
            stream=stage.stream,
            silence=SilenceBound(ceiling_s=self.settings.step_timeout),
        )

    def _new_driver(self, members: Sequence[Member], plan: Plan) -> Driver:
        return Driver(
            Scheduler(limits_for(self.settings, self.source, members, plan)),
            stage_labels(plan),
            self.clock,
            self.http_loop,
            drafts_of(self.settings.speculate),
            published=self.published,
        )

    def _broke(self, fault: BaseException, report: Report) -> None:
        """A mistake of ours: whoever waits is told, and from now on everybody at once."""
        log.error("the pipeline broke", exc_info=fault)
        error = StageUnavailable(
            f"a fault of edgeserve ended the pipeline ({type(fault).__name__}: {fault}); restart "
            "the gateway",
            retryable=False,
        )
        self._enter(State.BROKEN, Status(phase="stage_lost", reason=str(error)))
        report(error)
        self.cut_off(error)

    def _enter(self, state: State, status: Status | None = None) -> None:
        """With what is said of it from now on; None changes nothing."""
        assert (self.state, state) in _ALLOWED, f"no edge from {self.state} to {state}"
        self.state = state
        if status is not None:
            self.published.status = status


def unavailable(status: Status) -> StageUnavailable:
    return StageUnavailable(
        f"no token can be produced now: {status.reason}", stage=status.stage, worker=status.worker
    )
