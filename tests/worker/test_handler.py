"""A worker that is supplied and then loads: whose order counts, and what has to come first."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edgeserve.box import Box
from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.errors import BadModel, DamagedWeights, EdgeserveError, WireError
from edgeserve.wire.messages import Loaded, LoadOrder
from edgeserve.wire.supply import Manifest, Supplied, SupplyPart, SupplyReply, WantedTensor
from edgeserve.worker.device import open_device
from edgeserve.worker.handler import WorkerHandler
from tests.model.tiny import save_tiny
from tests.worker.gateway_box import GatewayBox

NORM = "model.layers.1.input_layernorm.weight"
BOX = Box(
    python_version="3", torch_version="2", driver_version="none", memory_free_bytes=1,
    disk_free_bytes=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> GatewayBox:
    folder = tmp_path_factory.mktemp("model")
    save_tiny("llama2", folder)
    return GatewayBox(folder)


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    return WorkerSettings(
        device="cpu", memory=2**30, threads=1, local_files="off", cache=str(tmp_path)
    )


@pytest.fixture
def handler(settings: WorkerSettings) -> Iterator[WorkerHandler]:
    made = new_handler(settings)
    yield made
    made._forget_supply()
    made.close()


def new_handler(settings: WorkerSettings) -> WorkerHandler:
    clock = MonotonicClock()
    return WorkerHandler(open_device(settings, clock), settings, clock, BOX)


async def supplied(
    handler: WorkerHandler, box: GatewayBox, manifest: Manifest
) -> tuple[Supplied, int]:
    """And how many bytes were sent for it."""
    content, sent = list(box.content().values()), 0
    to_send: list[WantedTensor] = []

    async def parts() -> AsyncIterator[SupplyPart]:
        nonlocal sent
        while to_send:
            wanted = to_send.pop(0)
            payload = content[wanted.tensor][wanted.offset :]
            sent += len(payload)
            yield SupplyPart(tensor=wanted.tensor, offset=wanted.offset, payload=payload)

    last = SupplyReply()
    async for last in handler.supply(manifest, parts()):
        to_send += last.wanted
    assert last.supplied is not None
    return last.supplied, sent


async def loaded(handler: WorkerHandler, order: LoadOrder) -> Loaded:
    async with asyncio.timeout(20):
        steps = [step async for step in handler.load(order)]
    assert steps[-1].loaded is not None
    return steps[-1].loaded


def test_a_worker_says_which_gpu_it_is_on(settings: WorkerSettings) -> None:
    clock = MonotonicClock()
    device = replace(open_device(settings, clock), uuid="aaaa-1")
    with closing(WorkerHandler(device, settings, clock, BOX)) as handler:
        assert handler.describe().device_uuid == "aaaa-1"


async def test_what_was_supplied_is_loaded_and_then_held(
    handler: WorkerHandler, box: GatewayBox
) -> None:
    manifest = box.manifest()
    counted, sent = await supplied(handler, box, manifest)
    assert counted == Supplied(streamed_bytes=box.total_bytes)
    assert sent == box.total_bytes
    assert (await loaded(handler, manifest.order)).slice_bytes == box.total_bytes
    assert list((Path(handler._settings.cache) / "pins").iterdir()) == [], "nothing is kept back"

    later = box.manifest(epoch=2)
    counted, sent = await supplied(handler, box, later)
    assert counted == Supplied(held_bytes=box.total_bytes)
    assert sent == 0
    assert (await loaded(handler, later.order)).load_s > 0


async def test_other_weights_of_the_same_model_are_not_held(
    handler: WorkerHandler, box: GatewayBox, tmp_path: Path
) -> None:
    manifest = box.manifest()
    await supplied(handler, box, manifest)
    before = await loaded(handler, manifest.order)
    other = GatewayBox(shutil.copytree(box.folder, tmp_path / "other"))
    tensors = load_file(other.folder / "model.safetensors")
    tensors[NORM] = tensors[NORM] + 1
    save_file(tensors, other.folder / "model.safetensors")

    manifest = other.manifest(epoch=2)
    counted, _ = await supplied(handler, other, manifest)
    after = await loaded(handler, manifest.order)

    assert counted.streamed_bytes == tensors[NORM].nbytes
    assert after.slice_hash != before.slice_hash


async def test_what_its_disk_has_damaged_is_supplied_again(
    handler: WorkerHandler, box: GatewayBox, tmp_path: Path
) -> None:
    manifest = box.manifest()
    await supplied(handler, box, manifest)
    blob = max((tmp_path / "blobs").iterdir(), key=lambda each: each.stat().st_size)
    content = blob.read_bytes()
    blob.write_bytes(bytes(len(content)))
    with pytest.raises(DamagedWeights, match=blob.name):
        await loaded(handler, manifest.order)

    counted, sent = await supplied(handler, box, manifest)

    assert counted.streamed_bytes == sent == len(content)
    assert (await loaded(handler, manifest.order)).slice_bytes == box.total_bytes


async def test_weights_that_were_not_supplied_are_not_loaded(
    handler: WorkerHandler, box: GatewayBox
) -> None:
    manifest = box.manifest()
    with pytest.raises(WireError, match="Supply comes before Load"):
        await loaded(handler, manifest.order)
    await supplied(handler, box, manifest)
    with pytest.raises(WireError, match="Supply comes before Load"):
        await loaded(handler, replace(manifest.order, weights_hash="0" * 64))


async def test_a_gateway_that_is_over_supplies_nobody(
    handler: WorkerHandler, box: GatewayBox
) -> None:
    await supplied(handler, box, box.manifest(epoch=5))
    with pytest.raises(WireError, match="epoch 4 is over"):
        await supplied(handler, box, box.manifest(epoch=4))


async def test_a_newer_gateway_ends_what_an_older_one_sends(
    handler: WorkerHandler, box: GatewayBox
) -> None:
    async def parts() -> AsyncIterator[SupplyPart]:
        yield SupplyPart(tensor=0, offset=0, payload=b"1234")
        async for _ in handler.supply(box.manifest(epoch=2), _nothing()):
            break
        yield SupplyPart(tensor=0, offset=4, payload=b"5678")

    with pytest.raises(WireError, match="epoch 1 is over"):
        async for _ in handler.supply(box.manifest(epoch=1), parts()):
            pass


async def _nothing() -> AsyncIterator[SupplyPart]:
    for part in tuple[SupplyPart, ...]():
        yield part


async def test_a_cache_that_breaks_is_told_to_the_gateway(
    handler: WorkerHandler, box: GatewayBox, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / f"{box.manifest().tensors[0].sha256}.0.part").mkdir()

    with pytest.raises(EdgeserveError, match="cache cannot be used: .* Is a directory"):
        await supplied(handler, box, box.manifest())


async def test_a_configuration_of_another_model_is_refused(
    handler: WorkerHandler, box: GatewayBox
) -> None:
    manifest = box.manifest(spec_hash="0" * 16)
    with pytest.raises(WireError, match="give both the same folder"):
        await supplied(handler, box, manifest)


async def test_a_worker_whose_own_model_is_a_shape_takes_no_real_one(
    box: GatewayBox, settings: WorkerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeserve.families.folder.SHAPES", {"tiny": box.source.spec})
    handler = new_handler(replace(settings, model="tiny"))
    with pytest.raises(BadModel, match="--model tiny has random weights"):
        await supplied(handler, box, box.manifest())
    handler.close()


async def test_a_paced_worker_needs_no_folder(
    box: GatewayBox, settings: WorkerSettings, tmp_path: Path
) -> None:
    handler = new_handler(replace(settings, pace="rtx-3060", memory=0))
    order = box.manifest(model=str(tmp_path / "nowhere"), weights_hash="").order

    assert (await loaded(handler, order)).slice_bytes == box.total_bytes
    handler.close()
