"""What a worker takes from its files, its cache and its gateway, and what it does not believe."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeserve.cache.blobs import BlobCache
from edgeserve.errors import BadModel, DoesNotFit, WireError
from edgeserve.frames.stage import LayerRange, cut
from edgeserve.wire.supply import PAYLOAD_BYTES_MAX, Manifest, Supplied, SupplyPart
from edgeserve.worker.supply import LocalFolder, Supply
from tests.model.tiny import save_tiny
from tests.worker.gateway_box import GatewayBox

NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_tiny("llama2", folder)
    return folder


@pytest.fixture
def box(model: Path) -> GatewayBox:
    return GatewayBox(model)


@pytest.fixture
def cache(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "cache", 2**30)


SUPPLIES: list[Supply] = []


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    while SUPPLIES:
        SUPPLIES.pop().release()


def new_supply(box: GatewayBox, cache: BlobCache, local: LocalFolder | None = None) -> Supply:
    SUPPLIES.append(Supply(box.manifest(), box.source.spec, cache, local))
    return SUPPLIES[-1]


def other_model(model: Path, folder: Path) -> Path:
    """A fine-tune of it: one norm of one layer is another."""
    shutil.copytree(model, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[NORM] = tensors[NORM] + 1
    save_file(tensors, folder / "model.safetensors")
    return folder


# -- where tensors come from


async def test_what_is_nowhere_here_is_streamed_once(box: GatewayBox, cache: BlobCache) -> None:
    first, second = new_supply(box, cache), new_supply(box, cache)

    supplied, _ = await box.supply(first)
    assert supplied == Supplied(streamed_bytes=box.total_bytes)
    assert box.sent_bytes == box.total_bytes
    content = {each.source.name: each.stored.path.read_bytes() for each in first.found}
    assert content == box.content()

    supplied, replies = await box.supply(second)
    assert supplied == Supplied(cached_bytes=box.total_bytes)
    assert box.sent_bytes == box.total_bytes
    assert [each.wanted for each in replies] == [()]


async def test_local_files_of_the_same_content_are_taken_as_they_lie(
    box: GatewayBox, cache: BlobCache, tmp_path: Path
) -> None:
    here = shutil.copytree(box.folder, tmp_path / "copy")
    supply = new_supply(box, cache, LocalFolder(path=here, named_here=False))

    supplied, replies = await box.supply(supply)

    assert supplied == Supplied(local_bytes=box.total_bytes)
    assert {each.stored.path for each in supply.found} == {here / "model.safetensors"}
    assert not any(each.sha256 for each in supply.found), "files of others are not thrown away"
    assert replies[-2].checked_bytes == box.total_bytes


async def test_of_local_files_that_differ_only_those_are_streamed(
    box: GatewayBox, cache: BlobCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = other_model(box.folder, tmp_path / "other")
    supply = new_supply(box, cache, LocalFolder(path=here, named_here=False))
    norm_bytes = len(box.content()[NORM])

    with caplog.at_level(logging.WARNING):
        supplied, _ = await box.supply(supply)

    assert supplied == Supplied(local_bytes=box.total_bytes - norm_bytes, streamed_bytes=norm_bytes)
    assert {each.source.name for each in supply.found if each.sha256} == {NORM}
    (said,) = caplog.messages
    assert str(here) in said
    assert f"tensor {NORM} has SHA-256" in said


async def test_files_that_were_named_here_have_to_be_the_gateways(
    box: GatewayBox, cache: BlobCache, tmp_path: Path
) -> None:
    here = other_model(box.folder, tmp_path / "other")
    supply = new_supply(box, cache, LocalFolder(path=here, named_here=True))
    (told,) = (each.sha256 for each in box.manifest().tensors if each.name == NORM)

    with pytest.raises(BadModel, match=rf"--model {here} is another model.* SHA-256 \w{{64}}, the "
                                       rf"gateway's has {told} \(1 tensors"):  # fmt: skip
        await box.supply(supply)


@pytest.mark.parametrize("named_here", [True, False])
async def test_a_folder_without_the_tensors_is_of_use_only_if_nobody_named_it(
    box: GatewayBox, cache: BlobCache, tmp_path: Path, named_here: bool
) -> None:
    supply = new_supply(box, cache, LocalFolder(path=tmp_path, named_here=named_here))

    if named_here:
        with pytest.raises(BadModel, match="has no weights"):
            await box.supply(supply)
    else:
        supplied, _ = await box.supply(supply)
        assert supplied == Supplied(streamed_bytes=box.total_bytes)


async def test_a_tied_embedding_is_streamed_once(tmp_path: Path, cache: BlobCache) -> None:
    folder = tmp_path / "tied"
    save_tiny("tied", folder)
    first, last = (GatewayBox(folder, stage=stage) for stage in cut((2, 2)))
    await first.supply(new_supply(first, cache))

    supplied, _ = await last.supply(new_supply(last, cache))

    embedding_bytes = 4 * 99 * 32
    assert supplied.cached_bytes == embedding_bytes
    assert supplied.streamed_bytes == last.sent_bytes == last.total_bytes - embedding_bytes


async def test_tensors_of_one_content_are_streamed_once(tmp_path: Path, cache: BlobCache) -> None:
    folder = tmp_path / "even"
    save_tiny("llama2", folder)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        tensors[name] = torch.ones_like(tensors[name]) if "norm" in name else tensors[name]
    save_file(tensors, folder / "model.safetensors")
    box = GatewayBox(folder)

    supplied, _ = await box.supply(supply := new_supply(box, cache))

    assert supplied.streamed_bytes == box.sent_bytes == box.total_bytes - 3 * 4 * 32
    assert supplied.cached_bytes == 3 * 4 * 32
    assert len(supply.found) == len(box.content())


# -- interrupted and damaged


@pytest.mark.parametrize("parts", [1, 13, 30])
async def test_what_was_cut_off_goes_on_where_it_ended(
    box: GatewayBox, cache: BlobCache, parts: int
) -> None:
    box.cut_after = parts
    with pytest.raises(WireError, match="the gateway ended the stream at byte"):
        await box.supply(new_supply(box, cache))
    came_bytes = box.sent_bytes
    assert 0 < came_bytes < box.total_bytes

    again = GatewayBox(box.folder)
    supplied, _ = await again.supply(new_supply(again, cache))

    assert again.sent_bytes == box.total_bytes - came_bytes
    assert supplied.streamed_bytes == again.sent_bytes


async def test_what_was_cut_off_keeps_no_room_from_other_workers(
    box: GatewayBox, cache: BlobCache
) -> None:
    box.cut_after = 13
    supply = new_supply(box, cache)
    with pytest.raises(WireError, match="ended the stream"):
        await box.supply(supply)

    other = BlobCache(cache.folder, box.total_bytes)
    other.reserve({"0" * 64: box.total_bytes}).release()


async def test_a_bit_that_flips_on_the_way_is_sent_again(box: GatewayBox, cache: BlobCache) -> None:
    box.flips = {NORM: 1}
    supply = new_supply(box, cache)
    norm_bytes = len(box.content()[NORM])

    supplied, replies = await box.supply(supply)

    assert supplied.streamed_bytes == box.sent_bytes == box.total_bytes + norm_bytes
    assert [len(each.wanted) for each in replies] == [len(box.content()), 1, 0]
    content = {each.source.name: each.stored.path.read_bytes() for each in supply.found}
    assert content == box.content()


async def test_bits_that_flip_again_end_it_with_both_hashes(
    box: GatewayBox, cache: BlobCache
) -> None:
    box.flips = {NORM: 2}
    (told,) = (each.sha256 for each in box.manifest().tensors if each.name == NORM)

    with pytest.raises(WireError, match=rf"tensor {NORM} has SHA-256 \w{{64}}, the gateway's has "
                                        rf"{told}, and so 2 times; check memory"):  # fmt: skip
        await box.supply(new_supply(box, cache))

    assert not cache.path(told).exists()


async def test_a_beginning_that_was_damaged_on_disk_is_found_at_the_end(
    box: GatewayBox, cache: BlobCache
) -> None:
    box.cut_after = 2
    with pytest.raises(WireError):
        await box.supply(new_supply(box, cache))
    (part,) = (cache.folder / "blobs").glob("*.part")
    part.write_bytes(bytes(part.stat().st_size))

    again = GatewayBox(box.folder)
    _, replies = await again.supply(supply := new_supply(again, cache))

    assert [len(each.wanted) for each in replies] == [len(box.content()), 1, 0]
    content = {each.source.name: each.stored.path.read_bytes() for each in supply.found}
    assert content == box.content()


async def test_a_beginning_longer_than_the_tensor_is_none(
    box: GatewayBox, cache: BlobCache
) -> None:
    tensor = box.manifest().tensors[0]
    part = cache.begin(tensor.sha256)
    part.append(bytes(tensor.bytes + 1))
    part.close()

    supplied, _ = await box.supply(new_supply(box, cache))

    assert supplied.streamed_bytes == box.total_bytes


# -- room


async def test_a_cache_too_small_says_so_before_anything_is_asked_for(
    box: GatewayBox, tmp_path: Path
) -> None:
    cache = BlobCache(tmp_path, box.total_bytes - 1)

    with pytest.raises(DoesNotFit, match="raise --cache-bytes by 1"):
        await box.supply(new_supply(box, cache))

    assert box.sent == []


async def test_what_is_about_to_be_loaded_cannot_be_pushed_out(
    box: GatewayBox, tmp_path: Path
) -> None:
    cache = BlobCache(tmp_path, box.total_bytes + 10)
    supply = new_supply(box, cache)
    await box.supply(supply)

    with pytest.raises(DoesNotFit):
        cache.reserve({"f" * 64: 11})
    supply.release()
    cache.reserve({"f" * 64: 11}).release()
    assert any(not each.stored.path.exists() for each in supply.found)


# -- what is not believed


def _without_one(manifest: Manifest) -> Manifest:
    return replace(manifest, tensors=manifest.tensors[1:])


def _twice(manifest: Manifest) -> Manifest:
    return replace(manifest, tensors=(manifest.tensors[0], *manifest.tensors[:-1]))


def _renamed(manifest: Manifest) -> Manifest:
    evil = replace(manifest.tensors[0], name="../../etc/passwd")
    return replace(manifest, tensors=(evil, *manifest.tensors[1:]))


def _huge(manifest: Manifest) -> Manifest:
    huge = replace(manifest.tensors[0], shape=(2**40, 2**20))
    return replace(manifest, tensors=(huge, *manifest.tensors[1:]))


def _strange(manifest: Manifest) -> Manifest:
    strange = replace(manifest.tensors[0], dtype="F64")
    return replace(manifest, tensors=(strange, *manifest.tensors[1:]))


def _endless(manifest: Manifest) -> Manifest:
    stage = replace(manifest.order.stage, layers=LayerRange(0, 4 * 10**9))
    return replace(manifest, order=replace(manifest.order, stage=stage))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_without_one, "the manifest has 18 tensors, .* is made of 19"),
        (_twice, "the first that differs"),
        (_renamed, "the first that differs is '../../etc/passwd'"),
        (_huge, r"\[1099511627776, 1048576\]; it should be \["),
        (_strange, "'F64'.* as F32, F16, BF16"),
        (lambda it: replace(it, order=replace(it.order, weights_hash="0")), "its order says '0'"),
        (_endless, "19 tensors for 4000000000 layers"),
    ],
)
def test_a_manifest_of_anything_but_the_stage_is_refused(
    change: Any, says: str, box: GatewayBox, cache: BlobCache
) -> None:
    with pytest.raises(WireError, match=says):
        Supply(change(box.manifest()), box.source.spec, cache, None)

    assert list((cache.folder / "blobs").iterdir()) == []


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (SupplyPart(tensor=1, offset=0, payload=b"x"), "byte 0 of tensor 0 comes next"),
        (SupplyPart(tensor=0, offset=5, payload=b"x"), "and byte 5 of tensor 0 came"),
        (SupplyPart(tensor=10**6, offset=0, payload=b"x"), "byte 0 of tensor 1000000 came"),
        (SupplyPart(tensor=0, offset=0, payload=b""), "0 bytes came at byte 0"),
        (SupplyPart(tensor=0, offset=0, payload=bytes(10**6)), "1000000 bytes came"),
        (SupplyPart(tensor=0, offset=0, payload=bytes(PAYLOAD_BYTES_MAX + 1)), "at most 2097152"),
    ],
)
async def test_a_part_that_does_not_continue_what_was_asked_for_is_refused(
    part: SupplyPart, says: str, box: GatewayBox, cache: BlobCache
) -> None:
    async def parts() -> AsyncIterator[SupplyPart]:
        yield part

    with pytest.raises(WireError, match=says):
        async for _ in new_supply(box, cache).run(parts()):
            pass

    assert [path.stat().st_size for path in (cache.folder / "blobs").iterdir()] == [0]
