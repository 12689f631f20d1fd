"""One load on the device's thread, which leaves nothing behind unless somebody takes its stage.

The next load needs the memory of this one. So the memory of whatever was here before is given back
before it begins; one that fails leaves neither a traceback nor cycles; and one that nobody waits
for any more ends at its next step. Refuses to know what a stage is made of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from edgeserve.clock import Clock
from edgeserve.errors import DeviceLost, EdgeserveError
from edgeserve.wire.messages import LoadProgress
from edgeserve.worker.device_faults import device_lost, release_memory, without_trace
from edgeserve.worker.pace import PacedStage
from edgeserve.worker.stage import ResidentStage

log = logging.getLogger(__name__)

PROGRESS_PER_S = 5

Stage = ResidentStage | PacedStage
Take = Callable[[Callable[[int, int], None], Clock], Stage]
"""Reads or makes a stage, and tells bytes done and bytes in total."""
Made = TypeVar("Made")


class Loading:
    """`run` on the device's thread; everything else on the loop that made it."""

    def __init__(self, take: Take, clock: Clock, on_lost: Callable[[DeviceLost], None]) -> None:
        self._take = take
        self._clock = clock
        self._on_lost = on_lost
        self._next_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._steps: asyncio.Queue[LoadProgress | EdgeserveError | None] = asyncio.Queue()
        self._lock = threading.Lock()
        self._stage: Stage | None = None
        self._abandoned_for: EdgeserveError | None = None

    async def steps(self) -> AsyncGenerator[LoadProgress]:
        """Until there is a stage to `take_over`. Raises what the load failed with, or was abandoned
        for.
        """
        while (step := await self._steps.get()) is not None:
            if isinstance(step, EdgeserveError):
                raise step
            yield step

    def take_over(self) -> Stage:
        """From now on the caller holds the stage, and this load does not. Raises what the load was
        abandoned for, if that came behind its last step.
        """
        if self._abandoned_for is not None:
            raise self._abandoned_for
        assert self._stage is not None, "`steps` ended without an error"
        stage, self._stage = self._stage, None
        return stage

    def abandon(self, why: EdgeserveError) -> None:
        """What was made is dropped, now or as soon as possible; who waits in `steps` gets `why`.
        Costs nothing once the stage was taken over.
        """
        with self._lock:
            self._abandoned_for, self._stage = self._abandoned_for or why, None
        self._steps.put_nowait(why)

    def run(self) -> None:
        """Handles its own errors."""
        made = self._guarded(self._load)
        if isinstance(made, EdgeserveError) and not isinstance(made, DeviceLost):
            made = self._guarded(release_memory) or made
        self._tell(made)
        if isinstance(made, DeviceLost):  # last: it ends the process
            self._on_lost(made)

    def _load(self) -> Stage:
        release_memory()
        return self._take(self._report, self._clock)

    def _guarded(self, work: Callable[[], Made]) -> Made | EdgeserveError:
        try:
            return work()
        except EdgeserveError as error:
            return without_trace(error)
        except Exception as error:  # guards the loading thread's border
            log.exception("loading failed")
            what = f"loading failed: {type(error).__name__}: {error}"
            return device_lost(error) or EdgeserveError(what)

    def _report(self, done: int, total: int) -> None:
        """A few times a second. Ends a load that was abandoned."""
        if self._abandoned_for is not None:
            raise EdgeserveError("nobody waits for this load any more")
        now_s = self._clock.now_s()
        if now_s >= self._next_s:
            self._next_s = now_s + 1 / PROGRESS_PER_S
            self._put(LoadProgress(bytes_done=done, bytes_total=total))

    def _tell(self, made: Stage | EdgeserveError) -> None:
        with self._lock:
            if self._abandoned_for is not None:
                return
            if not isinstance(made, EdgeserveError):
                self._stage = made
        self._put(made if isinstance(made, EdgeserveError) else None)

    def _put(self, step: LoadProgress | EdgeserveError | None) -> None:
        self._loop.call_soon_threadsafe(self._steps.put_nowait, step)
