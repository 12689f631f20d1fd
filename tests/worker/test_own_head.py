"""Gateway and worker may see different parts of a tied model's files: whose word counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.errors import BadModel, WireError
from edgeserve.families.folder import ModelSource, open_folder, open_model
from edgeserve.families.rules import EMBEDDING, HEAD
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import open_device
from edgeserve.worker.stage import ResidentStage, as_ordered, load_stage
from tests.model.tiny import LAYERS, OWN_HEAD, save_tiny

LAST = Stage(LayerRange(2, LAYERS), embedding=False, head=True)


@pytest.fixture
def clock() -> MonotonicClock:
    return MonotonicClock()


def saved(folder: Path, family: str) -> ModelSource:
    save_tiny(family, folder)
    return open_model(str(folder))


def ordered(source: ModelSource, *, tied: bool, weights_hash: str = "") -> LoadOrder:
    """By a gateway that takes the head of this model for tied, or not."""
    spec = replace(source.spec, head_tied=tied)
    return LoadOrder(
        epoch=1, model=str(source.folder), spec_hash=spec.spec_hash, stage=LAST, dtype=Dtype.FP32,
        pages=4, frame_tokens_max=32, weights_hash=weights_hash,
    )  # fmt: skip


def loaded(order: LoadOrder, clock: MonotonicClock) -> ResidentStage:
    device = open_device(WorkerSettings(device="cpu", memory=2**30, threads=1), clock)
    return load_stage(order, order.model, device, lambda _done, _total: None, clock)


def test_the_head_of_the_file_is_the_slices(tmp_path: Path, clock: MonotonicClock) -> None:
    source = saved(tmp_path, OWN_HEAD)
    stage = loaded(ordered(source, tied=False), clock)
    tensors = load_file(tmp_path / "model.safetensors")
    assert not torch.equal(tensors[HEAD], tensors[EMBEDDING])
    parameters = dict(stage.slice_.named_parameters())
    assert torch.equal(parameters["head.weight"], tensors[HEAD])
    assert stage.holds(replace(stage.order, epoch=2), stage.order.model)


def test_a_gateway_that_did_not_compare_gets_the_same_numbers(
    tmp_path: Path, clock: MonotonicClock
) -> None:
    save_tiny("tied", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    source = open_model(str(tmp_path))
    assert source.spec.head_tied
    stage = loaded(ordered(source, tied=False), clock)
    assert not stage.source.spec.head_tied
    assert stage.holds(stage.order, stage.order.model)


def test_a_gateway_that_did_not_see_another_head_is_told(
    tmp_path: Path, clock: MonotonicClock
) -> None:
    source = saved(tmp_path, OWN_HEAD)
    with pytest.raises(WireError, match='a head of its own.*"tie_word_embeddings" to false'):
        loaded(ordered(source, tied=True), clock)


def test_heads_that_went_by_their_names_are_compared_then(
    tmp_path: Path, clock: MonotonicClock
) -> None:
    save_tiny("tied", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[HEAD] = tensors[EMBEDDING].clone()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    of_the_hub = open_folder(tmp_path, "org/name", "c0ffee")
    assert not of_the_hub.spec.head_tied
    assert as_ordered(of_the_hub, ordered(of_the_hub, tied=True)).spec.head_tied


def test_where_tensors_are_known_by_their_hashes_the_gateways_word_counts(tmp_path: Path) -> None:
    source = saved(tmp_path, OWN_HEAD)
    order = ordered(source, tied=True, weights_hash="ab" * 32)
    assert as_ordered(source, order).spec.head_tied


def test_a_head_that_was_ordered_and_is_not_there_is_named(
    tmp_path: Path, clock: MonotonicClock
) -> None:
    source = saved(tmp_path, "tied")
    with pytest.raises(BadModel, match="tensor lm_head.weight is missing"):
        loaded(ordered(source, tied=False), clock)


def test_another_model_stays_another_model(tmp_path: Path) -> None:
    source = saved(tmp_path, "tied")
    other = replace(ordered(source, tied=True), spec_hash="0" * 16)
    with pytest.raises(WireError, match="give both the same folder"):
        as_ordered(source, other)
