"""What the worker answers: what it is, taking a stage, and a session of frames for one gateway at a
time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from edgeserve.box import Box
from edgeserve.clock import Clock
from edgeserve.errors import EdgeserveError, WireError
from edgeserve.hugging_face.reference import hub_model, settled
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress
from edgeserve.worker.device import Device
from edgeserve.worker.device_thread import DeviceThread, Session
from edgeserve.worker.fetching import fetching
from edgeserve.worker.pace import PacedStage, load_paced
from edgeserve.worker.stage import ResidentStage, load_stage

log = logging.getLogger(__name__)

PROGRESS_PER_S = 5


class WorkerHandler:
    """Implements `wire.server.Handler`. Its methods run on the server's loop; loading runs on the
    device's thread.
    """

    def __init__(self, device: Device, model: str, clock: Clock, box: Box) -> None:
        self._device = device
        self._model = model
        self._clock = clock
        self._box = box
        self._thread = DeviceThread(clock)
        self._epoch = 0
        self._stage: ResidentStage | PacedStage | None = None
        self._session: Session | None = None

    def describe(self) -> Description:
        return Description(
            device=self._device.kind,
            device_name=self._device.name,
            memory_bytes=self._device.memory_bytes,
            reserve_bytes=self._device.reserve_bytes,
            memory_bytes_per_s=self._device.memory_bytes_per_s,
            dtypes=self._device.dtypes,
            simulation=self._device.simulation,
            epoch=self._epoch,
            loaded=self._stage.loaded if self._stage else None,
            box=replace(self._box, memory_free_bytes=self._device.memory_free_bytes()),
            held=self._session is not None and not self._session.closed,
        )

    async def load(self, order: LoadOrder) -> AsyncIterator[LoadProgress]:
        """Drops what an older epoch had. The same slice again is kept, and costs nothing."""
        self._check_epoch(order.epoch)
        self._end_session(order.epoch)
        self._epoch = order.epoch
        model = settled(self._model, order.model)
        on_hub = hub_model(model)
        if on_hub is not None:
            async for progress in fetching(on_hub, None if self._device.card else order.stage):
                yield progress
            self._check_epoch(order.epoch)  # a newer gateway may have come meanwhile
        if self._stage is None or not self._stage.holds(order, model):
            self._stage = None  # its memory is needed
            async for progress in self._loading(order, model):
                yield progress
        self._check_epoch(order.epoch)  # a newer gateway may have come meanwhile
        assert self._stage is not None
        done_bytes = self._stage.loaded.slice_bytes
        yield LoadProgress(bytes_done=done_bytes, bytes_total=done_bytes, loaded=self._stage.loaded)

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> Session:
        self._check_epoch(epoch)
        if self._stage is None or epoch != self._epoch:
            raise WireError("this worker holds no stage for this epoch; Load comes before Run")
        self._end_session(epoch)
        self._session = Session(
            stage=self._stage, thread=self._thread, reply=reply, announce=announce
        )
        return self._session

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._thread.stop()

    def _check_epoch(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise _taken_over(epoch, self._epoch)

    def _end_session(self, next_epoch: int) -> None:
        """Its gateway is told at its next frame, unless it is the one that asks and has left."""
        if self._session is not None:
            self._session.end(_taken_over(self._epoch, next_epoch))
            self._session = None

    async def _loading(self, order: LoadOrder, model: str) -> AsyncIterator[LoadProgress]:
        """Loads on the device's thread, behind frames that still run there."""
        loop = asyncio.get_running_loop()
        progress: asyncio.Queue[LoadProgress | ResidentStage | PacedStage | EdgeserveError] = (
            asyncio.Queue()
        )

        def tell(step: LoadProgress | ResidentStage | PacedStage | EdgeserveError) -> None:
            loop.call_soon_threadsafe(progress.put_nowait, step)

        report = _Throttle(
            self._clock,
            lambda done, total: tell(LoadProgress(bytes_done=done, bytes_total=total)),
        )

        def load() -> None:
            try:
                take = load_paced if self._device.card else load_stage
                outcome = take(order, model, self._device, report, self._clock)
            except EdgeserveError as error:
                tell(error)
            except Exception as error:  # guards the loading thread's border
                log.exception("loading %s failed", model)
                tell(EdgeserveError(f"loading failed: {error}"))
            else:
                tell(outcome)

        self._thread.call(load)
        while isinstance(step := await progress.get(), LoadProgress):
            yield step
        if isinstance(step, EdgeserveError):
            raise step
        if order.epoch == self._epoch:  # no newer gateway came meanwhile
            self._stage = step


def _taken_over(epoch: int, by_epoch: int) -> WireError:
    return WireError(
        f"epoch {epoch} is over: a gateway that started later (epoch {by_epoch}) has this "
        "worker; stop one of the two gateways"
    )


class _Throttle:
    """Passes progress on a few times a second."""

    def __init__(self, clock: Clock, report: Callable[[int, int], None]) -> None:
        self._clock = clock
        self._report = report
        self._next_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        now_s = self._clock.now_s()
        if now_s >= self._next_s:
            self._next_s = now_s + 1 / PROGRESS_PER_S
            self._report(done, total)
