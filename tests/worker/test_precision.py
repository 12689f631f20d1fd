"""Precision that PyTorch would trade for speed on a GPU; a CPU's build has the settings, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.config import WorkerSettings
from edgeserve.gpu import NvidiaDriver
from edgeserve.worker.device import open_device
from tests.worker.made_up_cuda import FakeCuda

SETTINGS = (
    "allow_fp16_reduced_precision_reduction",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_accumulation",
    "allow_tf32",
)


@pytest.fixture
def traded() -> Iterator[None]:
    """All of them on, and afterwards as they were."""
    matmul = torch.backends.cuda.matmul
    before = {each: getattr(matmul, each) for each in SETTINGS}
    for each in SETTINGS:
        setattr(matmul, each, True)
    yield
    for each, value in before.items():
        setattr(matmul, each, value)


@pytest.mark.usefixtures("traded")
def test_nothing_is_traded_once_a_gpu_is_opened() -> None:
    matmul = torch.backends.cuda.matmul
    assert [getattr(matmul, each) for each in SETTINGS] == [True] * 4

    made_up = NvidiaDriver(version="580.95.05", gpu=None)
    open_device(WorkerSettings(device="cuda"), clock := ManualClock(), made_up, FakeCuda(clock))

    assert [getattr(matmul, each) for each in SETTINGS] == [False] * 4
    # Long sums may still be cut in parts, for speed at few rows: the parts are added in fp32.
    assert matmul.allow_fp16_reduced_precision_reduction_split_k
