"""What the worker answers: what it is, taking a stage, and a session of frames for one gateway at a
time.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from edgeserve.box import Box
from edgeserve.cache.blobs import BYTES_MAX, BlobCache
from edgeserve.clock import Clock
from edgeserve.config import WorkerSettings, cache_folder
from edgeserve.errors import BadModel, DeviceLost, EdgeserveError, WireError
from edgeserve.families.folder import told_model
from edgeserve.hugging_face.find import open_fetched
from edgeserve.hugging_face.reference import hub_model, settled
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress
from edgeserve.wire.supply import Manifest, Supplied, SupplyPart, SupplyReply
from edgeserve.worker.device import Device
from edgeserve.worker.device_faults import device_lost
from edgeserve.worker.device_thread import DeviceThread, Session
from edgeserve.worker.fetching import fetching
from edgeserve.worker.loading import Loading, Stage, Take
from edgeserve.worker.pace import load_paced
from edgeserve.worker.stage import as_ordered, load_stage
from edgeserve.worker.supply import LocalFolder, Supply


class WorkerHandler:
    """Implements `wire.server.Handler`. Its methods run on the server's loop; loading runs on the
    device's thread.
    """

    def __init__(
        self,
        device: Device,
        settings: WorkerSettings,
        clock: Clock,
        box: Box,
        on_lost: Callable[[DeviceLost], None] = lambda _error: None,
    ) -> None:
        """`on_lost` is called, from any thread and perhaps more than once, when nothing can be
        computed in this process any more.
        """
        self._device = device
        self._settings = settings
        self._clock = clock
        self._box = box
        self._identity = secrets.token_hex(16)
        self._on_lost = on_lost
        self._thread = DeviceThread(clock, on_lost)
        self._epoch = 0
        self._stage: Stage | None = None
        self._under_way: Loading | None = None
        self._session: Session | None = None
        self._supply: Supply | None = None

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
            box=replace(self._box, memory_free_bytes=self._memory_free_bytes()),
            held=self._session is not None and not self._session.closed,
            identity=self._identity,
            device_uuid=self._device.uuid,
        )

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        """Drops what an older epoch had. The same slice again is kept, and costs nothing."""
        self._begin_epoch(order.epoch)
        if not order.weights_hash:  # or else `supply` has done it
            async with aclosing(self._fetching(order)) as fetched:
                async for progress in fetched:
                    yield progress
        if not self._holds(order):
            self._stage = None  # its memory is needed
            async with aclosing(self._loading(order)) as steps:
                async for progress in steps:
                    yield progress
        self._check_epoch(order.epoch)  # a newer gateway may have come meanwhile
        assert self._stage is not None
        done_bytes = self._stage.loaded.slice_bytes
        yield LoadProgress(bytes_done=done_bytes, bytes_total=done_bytes, loaded=self._stage.loaded)

    async def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        """Nothing for a slice that is held already. What it finds is for the next `load`."""
        order = manifest.order
        self._begin_epoch(order.epoch)
        self._forget_supply()
        async with aclosing(self._fetching(order)) as fetched:
            async for progress in fetched:
                yield SupplyReply(checked_bytes=progress.bytes_done)
        if self._holds(order):
            held_bytes = sum(each.bytes for each in manifest.tensors)
            yield SupplyReply(supplied=Supplied(held_bytes=held_bytes))
            return
        self._supply = supply = self._new_supply(manifest)
        try:
            async with aclosing(supply.run(self._of_epoch(order.epoch, parts))) as replies:
                async for reply in replies:
                    self._check_epoch(order.epoch)
                    yield reply
        except OSError as error:
            raise EdgeserveError(
                f"the model's files or the cache cannot be used: {error}"
            ) from None

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

    def _memory_free_bytes(self) -> int:
        """Raises DeviceLost: between two requests, this is how a lost device is found."""
        try:
            return self._device.memory_free_bytes()
        except RuntimeError as error:
            lost = device_lost(error)
            if lost is None:
                raise
            self._on_lost(lost)
            raise lost from None

    def _holds(self, order: LoadOrder) -> bool:
        return self._stage is not None and self._stage.holds(order, self._model(order))

    def _model(self, order: LoadOrder) -> str:
        return settled(self._settings.model, order.model)

    async def _fetching(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        """Of a model on the Hugging Face hub, the files that are not here yet."""
        on_hub = hub_model(self._model(order))
        if on_hub is not None:
            stage = None if self._device.card else order.stage
            async with aclosing(fetching(on_hub, stage)) as steps:
                async for progress in steps:
                    yield progress
            self._check_epoch(order.epoch)  # a newer gateway may have come meanwhile

    def _new_supply(self, manifest: Manifest) -> Supply:
        told = told_model(manifest.order.model, manifest.order.config)
        source = as_ordered(told, manifest.order)
        settings = self._settings
        cache = BlobCache(cache_folder(settings.cache), settings.cache_bytes or BYTES_MAX)
        return Supply(manifest, source.spec, cache, self._local_folder(manifest.order))

    def _local_folder(self, order: LoadOrder) -> LocalFolder | None:
        """This worker's own --model, else the gateway's, if that is here, too."""
        if self._settings.model:
            own = as_ordered(open_fetched(self._model(order)), order)
            if own.folder is None:
                raise BadModel(
                    f"--model {own.name} has random weights, the gateway's {order.model} has not; "
                    "start this worker without --model"
                )
            return LocalFolder(path=own.folder, named_here=True)
        folder = Path(order.model)
        if self._settings.local_files == "off" or not folder.is_dir():
            return None
        return LocalFolder(path=folder, named_here=False)

    async def _of_epoch(
        self, epoch: int, parts: AsyncIterator[SupplyPart]
    ) -> AsyncIterator[SupplyPart]:
        """Until a newer gateway comes."""
        async for part in parts:
            self._check_epoch(epoch)
            yield part

    def _forget_supply(self) -> None:
        if self._supply is not None:
            self._supply.release()
            self._supply = None

    def _begin_epoch(self, epoch: int) -> None:
        """Whatever an earlier one has under way is over."""
        self._check_epoch(epoch)
        self._end_session(epoch)
        if self._under_way is not None:
            self._under_way.abandon(_taken_over(self._epoch, epoch))
            self._under_way = None
        self._epoch = epoch

    def _check_epoch(self, epoch: int) -> None:
        if epoch < self._epoch:
            raise _taken_over(epoch, self._epoch)

    def _end_session(self, next_epoch: int) -> None:
        """Its gateway is told at its next frame, unless it is the one that asks and has left."""
        if self._session is not None:
            self._session.end(_taken_over(self._epoch, next_epoch))
            self._session = None

    def _loader(self, order: LoadOrder) -> Take:
        """Of what was supplied, if the order says that something was."""
        model = self._model(order)
        if self._device.card:
            return functools.partial(load_paced, order, model, self._device)
        if not order.weights_hash:
            return functools.partial(load_stage, order, model, self._device)
        supply = self._supply
        if supply is None or supply.order != order:
            raise WireError("this worker was not supplied for that order; Supply comes before Load")
        return functools.partial(load_stage, order, model, self._device, supplied=supply.found)

    async def _loading(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        """Loads on the device's thread, behind frames that still run there."""
        supply = self._supply
        loading = self._under_way = Loading(self._loader(order), self._clock, self._on_lost)
        self._thread.call(loading.run)
        try:
            async for progress in loading.steps():
                yield progress
            self._stage = loading.take_over()
        finally:
            loading.abandon(EdgeserveError("its gateway has left"))
            if self._supply is supply:  # no newer gateway came meanwhile
                self._forget_supply()


def _taken_over(epoch: int, by_epoch: int) -> WireError:
    return WireError(
        f"epoch {epoch} is over: a gateway that started later (epoch {by_epoch}) has this "
        "worker; stop one of the two gateways"
    )
