"""What a CPU computes in without being asked: nothing that its libraries would emulate."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.config import WorkerSettings
from edgeserve.families.spec import Dtype
from edgeserve.worker.device import open_device

DTYPES_OF_A_CPU = """
from edgeserve.clock import ManualClock
from edgeserve.config import WorkerSettings
from edgeserve.worker.device import open_device
print(*open_device(WorkerSettings(device="cpu", threads=1), ManualClock()).dtypes)
"""


def test_a_cpu_takes_weights_of_every_kind() -> None:
    device = open_device(WorkerSettings(device="cpu", threads=1), ManualClock())
    assert set(device.dtypes) == set(Dtype)
    assert device.dtypes[-2:] == (Dtype.INT8, Dtype.INT4)


def test_bf16_is_preferred_where_libraries_multiply_it() -> None:
    device = open_device(WorkerSettings(device="cpu", threads=1), ManualClock())
    capability = torch.cpu.get_capabilities()
    has = capability.get("avx512_bf16") and "AVX2" not in os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    if not has:
        pytest.skip("this processor has no instructions for bf16 that count here")
    assert device.dtypes[:2] == (Dtype.BF16, Dtype.FP32)


@pytest.mark.slow
def test_fp32_is_preferred_where_they_do_not() -> None:
    """Whatever the processor has: oneDNN is told to do without."""
    said = subprocess.run(
        [sys.executable, "-c", DTYPES_OF_A_CPU],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    assert said.split()[:3] == ["fp32", "bf16", "fp16"]
