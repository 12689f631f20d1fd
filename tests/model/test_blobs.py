"""A slice from blobs of the cache is the slice from the files, and a damaged blob never becomes
part of one.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeserve.errors import DamagedWeights
from edgeserve.families.spec import Dtype
from edgeserve.families.stage_files import FoundTensor, find_tensors
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.quantised import Quantise
from edgeserve.model.weights import LoadedSlice, WeightForm, load_found
from tests.model.stages import GetTiny, Tiny

STAGE = Stage(LayerRange(1, 3), embedding=False, head=False)


def blobs(model: Tiny, folder: Path) -> list[FoundTensor]:
    """Each tensor of the stage in a file of its own, whose name is its hash."""
    made = []
    for each in find_tensors(model.folder, model.spec, STAGE):
        content = each.stored.path.read_bytes()[each.stored.start_byte : each.stored.end_byte]
        sha256 = hashlib.sha256(content).hexdigest()
        (folder / sha256).write_bytes(content)
        stored = replace(
            each.stored, path=folder / sha256, start_byte=0, end_byte=each.stored.bytes
        )
        made.append(FoundTensor(source=each.source, stored=stored, sha256=sha256))
    return made


def load(found: list[FoundTensor], model: Tiny, form: WeightForm) -> LoadedSlice:
    return load_found(found, model.spec, STAGE, form, lambda _done, _total: None)


@pytest.mark.parametrize(
    "form",
    [
        WeightForm(torch.float32),
        WeightForm(torch.bfloat16),
        WeightForm(torch.bfloat16, "cpu", Quantise(dtype=Dtype.INT8), "int8"),
    ],
    ids=str,
)
def test_blobs_give_the_slice_that_the_files_give(
    tiny: GetTiny, tmp_path: Path, form: WeightForm
) -> None:
    model = tiny("qwen3")
    ours = load(blobs(model, tmp_path), model, form)
    theirs = load(find_tensors(model.folder, model.spec, STAGE), model, form)

    assert ours.slice_hash == theirs.slice_hash
    wanted = theirs.slice.state_dict()
    assert all(torch.equal(each, wanted[name]) for name, each in ours.slice.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("where", [0, 1000, -1])
def test_a_flipped_bit_is_found_and_its_blob_thrown_away(
    tiny: GetTiny, tmp_path: Path, dtype: torch.dtype, where: int
) -> None:
    model = tiny("llama2")
    found = blobs(model, tmp_path)
    damaged = max(found, key=lambda each: each.stored.bytes)
    content = bytearray(damaged.stored.path.read_bytes())
    content[where] ^= 4
    damaged.stored.path.write_bytes(content)

    with pytest.raises(DamagedWeights, match=f"tensor {damaged.stored.name} has SHA-256") as said:
        load(found, model, WeightForm(dtype))

    assert hashlib.sha256(content).hexdigest() in str(said.value)
    assert damaged.sha256 in str(said.value)
    assert not damaged.stored.path.exists()
    assert sum(each.stored.path.exists() for each in found) == len(found) - 1


def test_all_damaged_blobs_are_thrown_away_at_once(tiny: GetTiny, tmp_path: Path) -> None:
    """A gateway supplies once more, not once more for each of them."""
    found = blobs(tiny("llama2"), tmp_path)
    flipped, short, gone = found[0], found[3], found[-1]
    flipped.stored.path.write_bytes(bytes(flipped.stored.bytes))
    short.stored.path.write_bytes(bytes(4))
    gone.stored.path.unlink()

    with pytest.raises(DamagedWeights, match=f"tensor {flipped.stored.name} has SHA-256"):
        load(found, tiny("llama2"), WeightForm(torch.float32))

    lacking = {each.stored.name for each in found if not each.stored.path.exists()}
    assert lacking == {each.stored.name for each in (flipped, short, gone)}


def test_a_blob_that_is_cut_short_is_thrown_away(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    found = blobs(model, tmp_path)
    path = found[3].stored.path
    path.write_bytes(path.read_bytes()[:-4])

    with pytest.raises(DamagedWeights, match="cut short: 4 bytes are missing at the end"):
        load(found, model, WeightForm(torch.float32))

    assert not path.exists()


def test_a_blob_that_is_gone_is_told_as_damage(tiny: GetTiny, tmp_path: Path) -> None:
    model = tiny("llama2")
    found = blobs(model, tmp_path)
    found[0].stored.path.unlink()

    with pytest.raises(DamagedWeights, match=f"tensor {found[0].stored.name} is gone"):
        load(found, model, WeightForm(torch.float32))


def test_a_blob_that_its_disk_cannot_read_is_told_as_damage(
    tiny: GetTiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BadSector(io.FileIO):
        def readinto(self, _into: object) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    found = blobs(tiny("llama2"), tmp_path)
    bad, really = found[3].stored.path, Path.open

    def opened(path: Path, *how: Any, **more: Any) -> Any:
        return BadSector(path) if path == bad else really(path, *how, **more)

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(DamagedWeights, match=r"cannot be read \(Input/output error\)"):
        load(found, tiny("llama2"), WeightForm(torch.float32))

    assert not bad.exists()
