"""A config.json that ties the head to the embedding, and files that have a head as well."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgeserve.errors import BadModel
from edgeserve.families import head
from edgeserve.families.checkpoint import INDEX
from edgeserve.families.folder import (
    ModelSource,
    config_to_tell,
    open_folder,
    open_model,
    told_model,
)
from edgeserve.families.rules import EMBEDDING, HEAD
from edgeserve.families.spec import Dtype
from edgeserve.families.stage_files import find_tensors
from edgeserve.frames.stage import LayerRange, Stage
from tests.model.tiny import LAYERS, OWN_HEAD, save_tiny, say

WHOLE = Stage(LayerRange(0, LAYERS), embedding=True, head=True)
LAST = Stage(LayerRange(2, LAYERS), embedding=False, head=True)
FILE = "model.safetensors"


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    save_tiny("tied", tmp_path)
    return tmp_path


def opened(folder: Path) -> ModelSource:
    return open_model(str(folder))


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / FILE))


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()}, folder / FILE, {"format": "pt"}
    )


def split(folder: Path, *, without: str = "") -> None:
    """One file for each of head and embedding, one for the rest, and an index; `without` one."""
    tensors = tensors_of(folder)
    weight_map: dict[str, str] = {}
    for name, shard in ((HEAD, "head"), (EMBEDDING, "embedding"), ("", "rest")):
        part = {k: v for k, v in tensors.items() if k == name or not name}
        tensors = {k: v for k, v in tensors.items() if k not in part}
        save_file(part, folder / f"{shard}.safetensors", {"format": "pt"})
        weight_map |= dict.fromkeys(part, f"{shard}.safetensors")
    (folder / FILE).unlink()
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    if without:
        (folder / f"{without}.safetensors").unlink()


def heads_source(folder: Path, spec_of: ModelSource, stage: Stage = LAST) -> str:
    """Which tensor becomes the head of the stage."""
    found = find_tensors(folder, spec_of.spec, stage)
    (source,) = [each.source.name for each in found if each.source.target == "head.weight"]
    return source


def test_transformers_takes_the_head_of_the_file_too(tmp_path: Path) -> None:
    reference = save_tiny(OWN_HEAD, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is True
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.arange(3, 9)[None]
    assert torch.equal(loaded(ids).logits, reference.eval()(ids).logits)


def test_a_head_with_other_numbers_is_used_and_told(tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path)
    source = opened(tmp_path)
    assert not source.spec.head_tied
    assert heads_source(tmp_path, source) == HEAD
    (warning,) = source.warnings
    assert "ties the head to the embedding, but the model's files have a lm_head.weight" in warning


def test_it_has_its_own_memory_and_is_another_model(tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path)
    spec = opened(tmp_path).spec
    as_told = replace(spec, head_tied=True)
    more = spec.stage_bytes(WHOLE, Dtype.FP32) - as_told.stage_bytes(WHOLE, Dtype.FP32)
    assert more == spec.vocab * spec.hidden * 4
    assert spec.spec_hash != as_told.spec_hash


@pytest.mark.parametrize("place", [0, -1])
def test_one_number_is_enough(place: int, tied: Path) -> None:
    tensors = tensors_of(tied)
    head = tensors[EMBEDDING].clone()
    head.view(-1)[place] += 1e-6
    write(tied, {**tensors, HEAD: head})
    assert not opened(tied).spec.head_tied


def test_they_are_compared_to_the_end(tied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "BLOCK_BYTES", 1000)  # of 12,672
    tensors = tensors_of(tied)
    own = tensors[EMBEDDING].clone()
    write(tied, {**tensors, HEAD: own})
    assert opened(tied).spec.head_tied
    own.view(-1)[-1] += 1
    write(tied, {**tensors, HEAD: own})
    assert not opened(tied).spec.head_tied


def test_a_head_with_the_same_numbers_is_the_embedding(tied: Path) -> None:
    tensors = tensors_of(tied)
    write(tied, {**tensors, HEAD: tensors[EMBEDDING]})
    source = opened(tied)
    assert source.spec.head_tied
    assert source.warnings == ()
    assert heads_source(tied, source) == EMBEDDING
    assert len(find_tensors(tied, source.spec, WHOLE)) == len(tensors), "no second copy"


def test_a_file_without_a_head_is_as_its_config_says(tied: Path) -> None:
    source = opened(tied)
    assert (source.spec.head_tied, source.warnings) == (True, ())


def test_a_head_in_another_precision_has_other_numbers(tied: Path) -> None:
    tensors = tensors_of(tied)
    write(tied, {**tensors, HEAD: tensors[EMBEDDING].bfloat16()})
    assert not opened(tied).spec.head_tied


def test_the_two_may_lie_in_different_files(tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path)
    split(tmp_path)
    assert not opened(tmp_path).spec.head_tied
    assert heads_source(tmp_path, opened(tmp_path)) == HEAD


@pytest.mark.parametrize("without", ["head", "embedding"])
def test_what_cannot_be_compared_is_taken_by_its_name(without: str, tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path)
    split(tmp_path, without=without)
    source = opened(tmp_path)
    assert not source.spec.head_tied
    assert "not compared with the embedding" in source.warnings[0]


def test_a_model_of_the_hub_goes_by_names_wherever_its_files_are(tied: Path) -> None:
    tensors = tensors_of(tied)
    write(tied, {**tensors, HEAD: tensors[EMBEDDING]})
    split(tied)
    whole = open_folder(tied, "org/name", "c0ffee")
    (tied / "head.safetensors").unlink()
    assert open_folder(tied, "org/name", "c0ffee").spec == whole.spec
    assert not whole.spec.head_tied


def test_a_folder_without_weights_is_as_its_config_says(tied: Path) -> None:
    (tied / FILE).unlink()
    assert opened(tied).spec.head_tied


def test_damaged_files_are_left_to_whoever_reads_them(tied: Path) -> None:
    (tied / FILE).write_bytes(b"\xff" * 100)
    assert opened(tied).spec.head_tied
    with pytest.raises(BadModel, match="truncated or corrupt"):
        find_tensors(tied, opened(tied).spec, WHOLE)


def test_another_box_is_told_what_the_head_is(tmp_path: Path) -> None:
    save_tiny(OWN_HEAD, tmp_path)
    source = opened(tmp_path)
    assert told_model("x", config_to_tell(source)).spec == source.spec
    say(tmp_path, tie_word_embeddings=False)
    plain = opened(tmp_path)
    assert (plain.spec, plain.warnings) == (source.spec, ())
    assert config_to_tell(plain) == (tmp_path / "config.json").read_bytes()


@pytest.mark.parametrize("keys", [{"tie_word_embeddings": None}, {"tie_word_embeddings": False}])
def test_an_untied_model_without_a_head_names_it_and_the_cure(
    keys: dict[str, bool | None], tied: Path
) -> None:
    say(tied, **keys)
    source = opened(tied)
    assert not source.spec.head_tied
    with pytest.raises(BadModel, match=r"tensor lm_head.weight is missing.*to true in config.json"):
        find_tensors(tied, source.spec, LAST)


def test_a_tied_file_may_have_the_embedding_as_its_head_alone(tied: Path) -> None:
    tensors = tensors_of(tied)
    embedding = tensors.pop(EMBEDDING)
    write(tied, {**tensors, HEAD: embedding})
    source = opened(tied)
    assert (source.spec.head_tied, source.warnings) == (True, ())
    found = {each.source.target: each.stored for each in find_tensors(tied, source.spec, WHOLE)}
    assert found["embedding.weight"].name == EMBEDDING
    with (tied / FILE).open("rb") as file:
        file.seek(found["embedding.weight"].start_byte)
        assert file.read(found["embedding.weight"].bytes) == embedding.numpy().tobytes()
