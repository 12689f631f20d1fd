"""A model of the hub that is tied by its config.json, and may have a head of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from edgeserve.families.checkpoint import INDEX
from edgeserve.families.rules import EMBEDDING, HEAD
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.hugging_face.find import fetch_stage, find_model, open_fetched
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel
from tests.hugging_face.conftest import CONFIG, LAYERS
from tests.hugging_face.hub import Hub

NAME = "org/name"
LAST = Stage(LayerRange(3, LAYERS), embedding=False, head=True)
FIRST = Stage(LayerRange(0, 3), embedding=True, head=False)
BIG = 3_000_000
"""Numbers of a tensor after the header, so that the whole file would be noticed."""


def publish(hub: Hub, folder: Path, names: tuple[str, ...], *, sharded: bool = False) -> str:
    """A tied model whose files have tensors of these names."""
    for path in (*folder.glob("*.safetensors"), folder / INDEX):
        path.unlink()
    (folder / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    tensors = {"model.norm.weight": torch.ones(BIG), **{name: torch.ones(2, 2) for name in names}}
    if not sharded:
        save_file(tensors, folder / "model.safetensors")
        return hub.publish(NAME, folder)
    weight_map = {}
    for i, (name, tensor) in enumerate(tensors.items()):
        weight_map[name] = f"shard-{i}.safetensors"
        save_file({name: tensor}, folder / weight_map[name])
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return hub.publish(NAME, folder)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(
    ("names", "tied"), [((EMBEDDING,), True), ((EMBEDDING, HEAD), False), ((HEAD,), True)]
)
def test_a_gateway_knows_of_the_head_without_the_weights(
    names: tuple[str, ...], tied: bool, sharded: bool, hub: Hub, folder: Path
) -> None:
    publish(hub, folder, names, sharded=sharded)
    source = find_model(NAME)
    assert source.spec.head_tied is tied
    assert [f"have a {HEAD}" in each for each in source.warnings] == ([] if tied else [True])
    assert sum(hub.sent[each] for each in hub.sent if each.endswith(".safetensors")) < 4 * BIG


def test_the_whole_file_is_not_read_from_a_hub_that_ignores_ranges(hub: Hub, folder: Path) -> None:
    hub.ignores_ranges = True
    publish(hub, folder, (EMBEDDING, HEAD))
    assert not find_model(NAME).spec.head_tied
    assert hub.sent["model.safetensors"] < 4 * BIG


@pytest.mark.parametrize("stage", [FIRST, LAST])
def test_a_worker_with_the_file_comes_to_the_same_answer(
    stage: Stage, hub: Hub, folder: Path
) -> None:
    commit = publish(hub, folder, (EMBEDDING, HEAD))
    told = find_model(NAME)
    fetch_stage(HubModel(NAME, commit), stage, FetchProgress())
    assert open_fetched(f"{NAME}@{commit}").spec == told.spec


def test_a_worker_fetches_the_head_for_an_embedding_that_has_no_other(
    hub: Hub, folder: Path
) -> None:
    commit = publish(hub, folder, (HEAD,), sharded=True)
    fetch_stage(HubModel(NAME, commit), FIRST, FetchProgress())
    assert hub.sent["shard-1.safetensors"] > 0


def test_who_cannot_look_takes_the_config_at_its_word(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(hub, folder, (EMBEDDING, HEAD))
    find_model(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model(NAME).spec.head_tied


def test_a_file_that_is_none_is_left_to_whoever_reads_it(hub: Hub, folder: Path) -> None:
    publish(hub, folder, (EMBEDDING,))
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    hub.publish(NAME, folder)
    assert find_model(NAME).spec.head_tied
