"""The gateway's side of Supply: what it says its model is, and what it sends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgeserve.cache.hashes import FileHashes
from edgeserve.errors import BadModel
from edgeserve.families.checkpoint import StoredTensor
from edgeserve.families.folder import open_model, told_model
from edgeserve.families.manifest import weights_hash
from edgeserve.families.stage_files import find_tensors
from edgeserve.frames.stage import cut
from edgeserve.pipeline.supply import Delivery, Supplier
from edgeserve.wire import supply
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import LoadOrder, LoadProgress
from tests.model.tiny import OWN_HEAD, save_tiny
from tests.wire.fake_worker import ORDER, FakeHandler, serving

STAGE = cut((2, 2))[0]


@dataclass
class Box:
    """A model's folder on the gateway's box."""

    folder: Path
    cache: Path

    @property
    def supplier(self) -> Supplier:
        return Supplier(open_model(str(self.folder)), self.cache)

    @property
    def order(self) -> LoadOrder:
        spec = open_model(str(self.folder)).spec
        return self.supplier.told(
            replace(ORDER, model=str(self.folder), stage=STAGE, spec_hash=spec.spec_hash)
        )


@pytest.fixture
def box(tmp_path: Path) -> Box:
    folder = tmp_path / "model"
    save_tiny("llama2", folder)
    return Box(folder, tmp_path / "cache")


async def delivered(
    box: Box, client: WorkerClient
) -> tuple[LoadOrder, Delivery, list[LoadProgress]]:
    steps: list[LoadProgress] = []
    order, delivery = await box.supplier.supply(client, box.order, steps.append)
    return order, delivery, steps


async def test_it_sends_what_is_wanted_and_counts_as_the_worker_does(box: Box) -> None:
    handler = FakeHandler()
    async with serving(handler) as client:
        order, delivery, steps = await delivered(box, client)

    (manifest,) = handler.manifests
    sizes = [each.bytes for each in manifest.tensors]
    wanted_bytes = sum(size - size // 2 for size in sizes)
    assert delivery.sent_bytes == delivery.supplied.streamed_bytes == wanted_bytes
    assert manifest.order == order
    assert order.weights_hash == weights_hash(manifest.tensors)
    assert (steps[-1].bytes_done, steps[-1].doing) == (sum(sizes), "streaming")
    assert {each.doing for each in steps} == {"hashing", "comparing files", "streaming"}


def test_a_worker_is_told_what_the_head_is(tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path / "model")
    order = Box(tmp_path / "model", tmp_path / "cache").order
    assert told_model("x", order.config).spec.spec_hash == order.spec_hash


async def test_a_tensor_is_sent_in_parts_of_its_own_bytes(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FakeHandler checks that they follow upon one another."""
    monkeypatch.setattr("edgeserve.pipeline.supply.PAYLOAD_BYTES_MAX", 1000)
    handler = FakeHandler()
    async with serving(handler) as client:
        _, delivery, _ = await delivered(box, client)

    found = find_tensors(box.folder, open_model(str(box.folder)).spec, STAGE)
    content = box.folder.joinpath("model.safetensors").read_bytes()
    wanted = [
        content[each.stored.start_byte + each.stored.bytes // 2 : each.stored.end_byte]
        for each in found
    ]
    assert b"".join(handler.came) == b"".join(wanted)
    assert max(map(len, handler.came)) == 1000
    assert delivery.sent_bytes == sum(map(len, wanted))


async def test_what_was_hashed_once_is_not_read_again(box: Box) -> None:
    source = open_model(str(box.folder))
    async with serving(FakeHandler()) as client:
        first, _, _ = await delivered(box, client)
        weights = box.folder / "model.safetensors"
        times = weights.stat()
        content = bytearray(weights.read_bytes())
        content[find_tensors(box.folder, source.spec, STAGE)[3].stored.start_byte] ^= 1
        weights.write_bytes(content)  # in place, and the time put back
        os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
        second, _, _ = await delivered(box, client)
        os.utime(weights)
        third, _, _ = await delivered(box, client)

    assert second.weights_hash == first.weights_hash
    assert third.weights_hash != first.weights_hash


async def test_weights_that_are_damaged_here_are_named_before_a_worker_hears_of_them(
    box: Box,
) -> None:
    weights = box.folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 8)
    handler = FakeHandler()
    says = r"model\.safetensors is truncated.*: 8 are missing"
    async with serving(handler) as client:
        with pytest.raises(BadModel, match=says):
            await box.supplier.supply(client, box.order, lambda _step: None)
        assert handler.manifests == []


def on_reading(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """`do` comes before the weights are opened to be hashed or sent."""
    really = Path.open

    def opened(path: Path, mode: str = "r", buffering: int = -1, **more: Any) -> Any:
        if buffering == 0:
            do()
        return really(path, mode, buffering, **more)

    monkeypatch.setattr(Path, "open", opened)


async def test_who_leaves_while_files_are_hashed_leaves_all_but_one_tensor_unread(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, hashed = threading.Event(), threading.Event(), list[str]()

    def hash_slowly(_hashes: FileHashes, stored: StoredTensor) -> str:
        hashed.append(stored.name)
        began.set()
        go_on.wait(10)
        return "0" * 64

    monkeypatch.setattr(FileHashes, "sha256", hash_slowly)
    async with serving(FakeHandler()) as client:
        task = asyncio.create_task(delivered(box, client))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.get_running_loop().shutdown_default_executor()

    assert len(hashed) == 1


async def test_who_leaves_while_a_part_is_read_just_leaves(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        go_on.wait(10)

    async with serving(FakeHandler()) as client:
        await delivered(box, client)  # hashes
    async with serving(FakeHandler()) as client:
        on_reading(monkeypatch, wait)
        task = asyncio.create_task(delivered(box, client))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()


@pytest.mark.parametrize("hashed_before", [False, True])
async def test_a_disk_that_fails_is_an_error_that_names_the_file(
    box: Box, monkeypatch: pytest.MonkeyPatch, hashed_before: bool
) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    async with serving(FakeHandler()) as client:
        if hashed_before:
            await delivered(box, client)
    async with serving(FakeHandler()) as client:
        on_reading(monkeypatch, fail)
        with pytest.raises(BadModel, match=r"model\.safetensors cannot be read: Input/output"):
            await delivered(box, client)


async def test_a_stage_that_comes_back_is_told_the_same_though_the_folder_is_gone(
    box: Box,
) -> None:
    supplier, order = box.supplier, box.order
    shutil.rmtree(box.folder)

    assert supplier.can_supply, "and not: workers find it by themselves, and drop what they hold"
    assert supplier.told(replace(order, config=b"")) == order
    async with serving(FakeHandler()) as client:
        with pytest.raises(BadModel, match="no weights"):
            await supplier.supply(client, order, lambda _step: None)


def test_only_a_folder_with_weights_can_supply(box: Box) -> None:
    with_weights = box.supplier.can_supply
    (box.folder / "model.safetensors").unlink()
    others = [open_model(each) for each in (str(box.folder), "demo", "llama-2-13b")]

    assert with_weights
    assert not any(Supplier(each, box.cache).can_supply for each in others)


def test_a_box_without_the_folder_is_told_what_the_model_is(box: Box) -> None:
    told = told_model(box.order.model, box.order.config)

    assert told.spec == open_model(str(box.folder)).spec
    assert told.name == "model"
    assert not told.random_weights


@pytest.mark.parametrize("config", [b"{", b"[]", b"\xff", json.dumps({"a": 1}).encode()])
def test_a_configuration_that_is_none_is_refused(config: bytes) -> None:
    with pytest.raises(BadModel):
        told_model("/models/x", config)


def test_a_part_fits_a_message() -> None:
    assert supply.PAYLOAD_BYTES_MAX < 2**22, "4 MiB is what gRPC takes without being told"
