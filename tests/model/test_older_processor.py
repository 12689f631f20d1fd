"""That `make avx2` is what it says: libraries that do without this processor's newer instructions.

Each library has a variable of its own, and one that it does not know does nothing. Skips in any
other run.
"""

from __future__ import annotations

import os
import platform

import pytest
import torch

from edgeserve.model.int8 import INT8_WAYS, int8_way, is_right
from tests.model.stages import can_be_made

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2 is for x86")


def only_with(variable: str, value: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        os.environ.get(variable) != value, reason=f"{variable} is not {value}"
    )


@only_with("ATEN_CPU_CAPABILITY", "avx2")
def test_pytorchs_own_kernels_use_avx2() -> None:
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"


@only_with("ONEDNN_MAX_CPU_ISA", "AVX2")
def test_onednn_has_neither_bf16_nor_fp16() -> None:
    assert can_be_made("packed", torch.float32)
    assert not can_be_made("packed", torch.bfloat16)
    assert not can_be_made("packed", torch.float16)


@only_with("FBGEMM_ENABLE_INSTRUCTIONS", "AVX2")
def test_fbgemm_adds_pairs_of_products_in_16_bits() -> None:
    one_pass, without_overflow, *_ = INT8_WAYS
    assert not is_right(one_pass.make), "sums do not overflow: FBGEMM uses VNNI"
    assert int8_way() is without_overflow
