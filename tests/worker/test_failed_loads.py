"""A load that fails, wherever it does, gives its memory back before the next one takes any.

Python's collector is switched off meanwhile: what is left to it stays until it happens to run, and
by then the next load has met a full device.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.errors import DamagedWeights, DoesNotFit, EdgeserveError, WireError
from edgeserve.families.spec import Dtype
from edgeserve.model import weights
from edgeserve.model.product import LeavePlain, Preparation, Product
from edgeserve.model.quantised import Quantise
from edgeserve.model.slice import Slice
from edgeserve.model.staging import HostStaging
from edgeserve.wire.messages import LoadOrder, LoadProgress
from edgeserve.worker import loading as loading_module
from edgeserve.worker import stage as stage_module
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.handler import WorkerHandler
from tests.model.tiny import save_tiny
from tests.worker.gateway_box import GatewayBox
from tests.worker.test_handler import BOX, supplied

pytestmark = pytest.mark.slow

WITHIN_S = 1.0
Patch = pytest.MonkeyPatch


def held_bytes() -> int:
    """Of all tensors that are alive, each memory once."""
    storages = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if issubclass(type(each), torch.Tensor) and not each.is_meta
    }
    return sum(storages.values())


class OutOfMemory:
    """Raised at the nth call of what it stands in for. `at_failure` bytes were held then."""

    def __init__(self, nth: int, instead_of: Callable[..., Any], error: Exception) -> None:
        self.calls, self.at_failure = 0, 0
        self._nth, self._instead_of, self._error = nth, instead_of, error

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self._nth:
            self.at_failure = held_bytes()
            error, self._error = self._error, RuntimeError("only once")
            raise error
        return self._instead_of(*arguments, **named)


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 283.00 MiB.")


class CudaInName(Device):
    """The processor, for which a load does what it does for a GPU."""

    @property
    def kind(self) -> str:
        return "cuda"


@dataclass
class NoFrames:
    """Where a GPU's stage has its graphs: it holds what they hold."""

    slice_: Any
    kv_pages: Any

    @classmethod
    def of(cls, slice_: Any, kv_pages: Any, *_rest: Any) -> NoFrames:
        return cls(slice_, kv_pages)


def prepared(dtype: Dtype, _device: Device) -> Preparation:
    """By a processor, which has no kernels of a GPU."""
    return Quantise(dtype=dtype) if dtype.is_quantised else LeavePlain()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> GatewayBox:
    folder = tmp_path_factory.mktemp("model")
    save_tiny("llama2", folder)
    return GatewayBox(folder)


@pytest.fixture
def handler(tmp_path: Path, monkeypatch: Patch) -> Iterator[WorkerHandler]:
    settings = WorkerSettings(
        device="cpu", memory=2**30, threads=1, local_files="off", cache=str(tmp_path)
    )
    device = open_device(settings, MonotonicClock())
    device = CudaInName(**{each.name: getattr(device, each.name) for each in fields(device)})
    monkeypatch.setattr(stage_module, "_cuda_frames", NoFrames.of)
    monkeypatch.setattr(stage_module, "_preparation", prepared)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    made = WorkerHandler(device, settings, MonotonicClock(), BOX)
    yield made
    made._forget_supply()
    made.close()


@pytest.fixture
def without_collector() -> Iterator[None]:
    # pytest's own handlers keep log records, and with them the tracebacks of what was logged.
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    logging.disable(logging.NOTSET)


@dataclass
class At:
    """A place at which a load can fail."""

    place: str
    nth: int = 1
    dtype: Dtype = Dtype.FP32

    def __str__(self) -> str:
        return f"{self.place}-{self.nth}-{self.dtype}"

    def break_there(self, patch: Patch, error: Exception) -> OutOfMemory:
        module, name = {
            "parameter": (weights, "empty_parameter"),
            "block": (HostStaging, "read"),
            "product": (Product, "hand_over"),
            "pages": (stage_module, "KvPages"),
            "graphs": (stage_module, "_cuda_frames"),
            "hash": (weights, "_hash"),
        }[self.place]
        failing = OutOfMemory(self.nth, getattr(module, name), error)
        is_method = isinstance(module, type)

        def method(*arguments: Any) -> Any:
            return failing(*arguments)

        patch.setattr(module, name, method if is_method else failing)
        return failing


PLACES = [
    At("parameter", nth=9),
    At("block", nth=5),
    At("block", nth=12, dtype=Dtype.FP16),
    At("product", nth=1, dtype=Dtype.INT8),
    At("product", nth=4, dtype=Dtype.INT8),
    At("hash"),
    At("pages"),
    At("graphs"),
]
ERRORS = {
    "full": (full, DoesNotFit),
    "kernel": (lambda: RuntimeError("a kernel cannot be compiled"), EdgeserveError),
    "model": (lambda: DamagedWeights("tensor x has SHA-256 1"), DamagedWeights),
    "python": (lambda: MemoryError("out of memory"), EdgeserveError),
}


async def loading(handler: WorkerHandler, order: LoadOrder) -> list[LoadProgress]:
    async with asyncio.timeout(20):
        return [step async for step in handler.load(order)]


def given_back(before: int) -> None:
    start_s = time.monotonic()
    while (now := held_bytes()) > before:
        assert time.monotonic() - start_s < WITHIN_S, f"{now - before} bytes are still held"
        time.sleep(0.01)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("at", PLACES, ids=str)
async def test_a_load_that_failed_gives_its_memory_back(
    at: At, error: str, handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    order = box.manifest(weights_hash="", dtype=at.dtype).order
    made, expected = ERRORS[error]
    before = held_bytes()
    with monkeypatch.context() as patch:
        failing = at.break_there(patch, made())
        with pytest.raises(expected) as caught:
            await loading(handler, order)

        assert failing.at_failure > before, "there was something to give back"
        given_back(before)
        assert caught.value.__context__ is None, "held until here, as whoever reports it does"
    assert (await loading(handler, order))[-1].loaded is not None


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("at", [PLACES[1], PLACES[-1]], ids=str)
async def test_so_does_one_of_supplied_tensors(
    at: At, handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    manifest = box.manifest()
    await supplied(handler, box, manifest)
    before = held_bytes()
    failing = at.break_there(monkeypatch, full())

    with pytest.raises(DoesNotFit):
        await loading(handler, manifest.order)

    assert failing.at_failure > before
    given_back(before)


@pytest.mark.usefixtures("without_collector")
async def test_so_does_one_that_finds_damage(
    handler: WorkerHandler, box: GatewayBox, tmp_path: Path
) -> None:
    manifest = box.manifest()
    await supplied(handler, box, manifest)
    for blob in (tmp_path / "blobs").iterdir():
        blob.write_bytes(bytes(blob.stat().st_size))
    before = held_bytes()

    with pytest.raises(DamagedWeights):
        await loading(handler, manifest.order)

    given_back(before)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("at", [PLACES[1], PLACES[-1]], ids=str)
async def test_memory_is_dropped_first_and_then_given_to_the_device(
    at: At, handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    held_when_emptied: list[int] = []
    before = held_bytes()
    at.break_there(monkeypatch, full())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held_when_emptied.append(held_bytes()))

    with pytest.raises(DoesNotFit):
        await loading(handler, box.manifest(weights_hash="").order)

    first, *_before_pages, last = held_when_emptied
    assert (first, last) == (before, before), "before the load, and after it failed"


async def begun(
    handler: WorkerHandler, order: LoadOrder, monkeypatch: Patch
) -> AsyncGenerator[LoadProgress]:
    """A load of which some is read already; the first step is told."""
    monkeypatch.setattr(loading_module, "PROGRESS_PER_S", 1e9)
    steps = handler.load(order)
    await anext(steps)
    return steps


@dataclass
class Slow:
    """A read that waits to be let on, from the nth on."""

    nth: int
    instead_of: Callable[..., Any]
    calls: int = 0

    def patch(self, monkeypatch: Patch, released: threading.Event) -> None:
        def read(*arguments: Any) -> None:
            self.calls += 1
            if self.calls >= self.nth:
                assert released.wait(WITHIN_S)
            self.instead_of(*arguments)

        monkeypatch.setattr(HostStaging, "read", read)


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("how", ["closed", "newer gateway"])
async def test_a_load_that_nobody_waits_for_ends_early_and_gives_its_memory_back(
    how: str, handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    order = box.manifest(weights_hash="").order
    before, released = held_bytes(), threading.Event()
    slow = Slow(5, HostStaging.read)
    slow.patch(monkeypatch, released)
    steps = await begun(handler, order, monkeypatch)
    if how == "closed":
        await steps.aclose()
    else:
        handler._begin_epoch(order.epoch + 1)
    calls = slow.calls
    released.set()

    if how != "closed":
        with pytest.raises(WireError, match="is over"):
            async for _ in steps:
                pass
    given_back(before)
    assert slow.calls <= calls + 1, "it reads no further"
    assert handler._stage is None


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("how", ["closed", "newer gateway"])
async def test_a_stage_that_is_ready_when_nobody_waits_any_more_is_dropped(
    how: str, handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    order = box.manifest(weights_hash="").order
    before, begun_there, released = held_bytes(), threading.Event(), threading.Event()

    def record(*stage: Any) -> NoFrames:
        begun_there.set()
        assert released.wait(WITHIN_S)
        return NoFrames.of(*stage)

    monkeypatch.setattr(stage_module, "_cuda_frames", record)
    steps = await begun(handler, order, monkeypatch)
    assert await asyncio.to_thread(begun_there.wait, WITHIN_S)
    if how == "closed":
        await steps.aclose()
    else:
        handler._begin_epoch(order.epoch + 1)
    released.set()

    given_back(before)
    await steps.aclose()


@pytest.mark.usefixtures("without_collector")
async def test_a_slice_is_gone_before_the_next_one_takes_memory(
    handler: WorkerHandler, box: GatewayBox, monkeypatch: Patch
) -> None:
    order = box.manifest(weights_hash="").order
    before, held_at_first = held_bytes(), list[int]()

    def watched(*arguments: Any, **named: Any) -> Slice:
        """What takes the first memory of a load."""
        held_at_first.append(held_bytes())
        return Slice(*arguments, **named)

    await loading(handler, order)
    session = handler.open_session(order.epoch, lambda _raw: None, lambda _in_s: None)
    assert held_bytes() > before
    monkeypatch.setattr(weights, "Slice", watched)
    for pages in (5, 6):
        held_at_first.clear()
        await loading(handler, replace(order, epoch=pages, pages=pages))
        assert held_at_first == [before]
    assert session.stage is None
    async with aclosing(handler.load(order)) as steps:
        with pytest.raises(WireError):
            await anext(steps)
