"""The bridge between two threads: the HTTP side's, on which all methods here are called, and the
pipeline's, which has an event loop of its own, so that no request can delay a frame.

A method reaches the pipeline in two ways: it reads `Published`, whose values are replaced whole, or
it has a function called on the pipeline's thread and awaits what that returns. It reads nothing
else of the other side.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from edgeserve.clock import Clock
from edgeserve.config import Address, GatewaySettings, cache_folder
from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.families.folder import ModelSource
from edgeserve.pipeline.connection import Connect
from edgeserve.pipeline.generation import Generation, Order, Published, Seen, Status
from edgeserve.pipeline.lifecycle import Hooks, Lifecycle, Report, unavailable
from edgeserve.pipeline.state import ClusterState, cluster_document
from edgeserve.pipeline.supply import Supplier
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.loop import run_on_loop

DRAIN_POLL_S = 0.05
STATE_TIMEOUT_S = 1.0
"""For the pipeline's thread to copy its state: a thousand times what it takes on a busy box."""
JOIN_TIMEOUT_S = 10.0
DRAINING = Status(phase="draining", reason="the gateway is shutting down")
Result = TypeVar("Result")


class PipelineEngine:
    """Implements `generation.Engine`. `start` it on the HTTP side's loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        source: ModelSource,
        clock: Clock,
        hooks: Hooks | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._clock = clock
        self._hooks = hooks or Hooks()
        self._connect = connect or self._client
        self._published = Published()
        self._is_draining = False
        self._last_state = ClusterState()
        self._lifecycle: Lifecycle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> asyncio.Future[None]:
        """The future is done when the first token can be asked for, or has the error that prevents
        it.
        """
        http_loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = http_loop.create_future()

        def report(error: EdgeserveError | None) -> None:
            http_loop.call_soon_threadsafe(_settle, ready, error)

        self._lifecycle = Lifecycle(
            settings=self._settings,
            source=self._source,
            supplier=Supplier(self._source, cache_folder(self._settings.cache)),
            clock=self._clock,
            connect=self._connect,
            published=self._published,
            http_loop=http_loop,
            hooks=self._hooks,
        )
        self._thread = threading.Thread(
            target=lambda: run_on_loop(self._main(report)), name="pipeline", daemon=True
        )
        self._thread.start()
        return ready

    async def submit(self, order: Order) -> Generation:
        if self._status.phase in ("starting", "draining"):
            raise unavailable(self._status)
        return await self._on_pipeline(lambda lifecycle: lifecycle.arrive(order))

    def status(self) -> Status:
        last_s = self._published.last_frame_s
        since_s = None if last_s is None else self._clock.now_s() - last_s
        simulation = self._published.simulation
        return replace(self._status, since_last_frame_s=since_s, simulation=simulation)

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
            await self._cut_off(timeout_s)

    def stop(self) -> None:
        """Ends the thread. Returns when it has ended, in a few seconds at most."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(JOIN_TIMEOUT_S)

    async def _cut_off(self, timeout_s: float) -> None:
        """Requests that outlast the drain end with an error, not with half an answer."""
        error = StageUnavailable(
            f"the gateway is shutting down, and the {timeout_s:g} s that running requests had are "
            "over; send the request again when it is back"
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(STATE_TIMEOUT_S):
                await self._on_pipeline(lambda lifecycle: lifecycle.cut_off(error))

    @property
    def _status(self) -> Status:
        """A gateway that drains stays so, whatever becomes of its stages."""
        return DRAINING if self._is_draining else self._published.status

    async def _state(self) -> ClusterState:
        """As it is now; of a thread that is too busy to answer, or has ended, as it last was."""
        if self._loop is not None and not self._loop.is_closed():
            with suppress(TimeoutError):
                async with asyncio.timeout(STATE_TIMEOUT_S):
                    self._last_state = await self._on_pipeline(Lifecycle.cluster_state)
        return self._last_state

    async def _busy(self) -> bool:
        now = (await self._state()).statistics
        return now.running + now.waiting > 0

    async def _on_pipeline(self, work: Callable[[Lifecycle], Result]) -> Result:
        lifecycle, loop = self._lifecycle, self._loop
        assert lifecycle is not None, "an engine is started before it is asked"
        assert loop is not None

        async def there() -> Result:
            return work(lifecycle)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there(), loop))

    async def _main(self, report: Report) -> None:
        """All that is on the pipeline's thread."""
        assert self._lifecycle is not None
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        living = asyncio.create_task(self._lifecycle.run(report))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({living, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (living, stopping):
            task.cancel()
        await asyncio.gather(living, stopping, return_exceptions=True)

    def _client(self, address: Address) -> WorkerClient:
        return WorkerClient(address, self._settings.token)


def _settle(ready: asyncio.Future[None], error: EdgeserveError | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
