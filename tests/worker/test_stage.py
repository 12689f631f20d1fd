"""A stage that stays: when a worker may answer `Load` with what it has, and when it must read
again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.families.stage import cut
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import open_device
from edgeserve.worker.stage import ResidentStage, load_stage
from tests.model.tiny import save_tiny


@pytest.fixture
def resident(tmp_path: Path) -> ResidentStage:
    save_tiny("llama2", tmp_path)
    spec = open_model(str(tmp_path)).spec
    clock = MonotonicClock()
    order = LoadOrder(
        epoch=1, model=str(tmp_path), spec_hash=spec.spec_hash, stage=cut((2, 2))[1],
        dtype=Dtype.FP32, pages=4, frame_tokens_max=32,
    )  # fmt: skip
    device = open_device(WorkerSettings(device="cpu", memory=2**30, threads=1), clock)
    return load_stage(order, str(tmp_path), device, lambda _done, _total: None, clock)


def test_the_same_order_of_a_later_gateway_is_held(resident: ResidentStage) -> None:
    order = replace(resident.order, epoch=2)

    assert resident.holds(order, order.model)


@pytest.mark.parametrize(
    "change", [{"pages": 5}, {"dtype": Dtype.BF16}, {"stage": cut((2, 2))[0]}], ids=str
)
def test_another_order_is_not_held(resident: ResidentStage, change: dict[str, object]) -> None:
    order = replace(resident.order, **change)  # type: ignore[arg-type]

    assert not resident.holds(order, order.model)


def test_weights_that_changed_in_their_folder_are_not_held(resident: ResidentStage) -> None:
    file = Path(resident.order.model) / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    save_file(tensors, file, metadata={"format": "pt"})

    assert not resident.holds(resident.order, resident.order.model)
