"""Every way to hold a matrix gives the matrix's product, or says that it cannot hold it."""

from __future__ import annotations

import pytest
import torch

from edgeserve.model import layouts
from edgeserve.model.layouts import LAYOUTS, fp16_blocks
from tests.model.stages import can_be_made

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_product(layout: str, dtype: torch.dtype, tokens: int) -> None:
    if not can_be_made(layout, dtype):
        pytest.skip(f"this processor has no {layout} weights in {dtype}")
    torch.manual_seed(0)
    weight, bias = torch.randn(100, 96).bfloat16().to(dtype), torch.randn(100).to(dtype)
    x = torch.randn(tokens, 96).to(dtype)
    got = LAYOUTS[layout](weight.clone(), bias)(x)
    assert got.dtype is dtype
    want = x.double() @ weight.double().T + bias.double()
    assert float((got.double() - want).norm() / want.norm()) < ROUNDING[dtype]


@pytest.mark.parametrize("exponents", [(-120.0, -100.0), (-30.0, 10.0), (0.0, 60.0)])
def test_fp16_blocks_hold_bf16_of_any_size_exactly(exponents: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    size_R1 = torch.linspace(*exponents, 48).round_().exp2_()[:, None]
    weight = (torch.randn(48, 64, generator=generator) * size_R1).bfloat16()
    back = fp16_blocks(weight.clone(), None)(torch.eye(64)).T
    assert torch.equal(back, weight.float())


def test_fp16_blocks_hold_every_number_of_fp16_exactly() -> None:
    weight = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.float16)
    weight = weight[weight.isfinite()].view(-1, 64)
    back = fp16_blocks(weight.clone(), None)(torch.eye(64)).T
    assert torch.equal(back, weight.float())


@pytest.mark.parametrize("changed", [1 + 2.0**-12, float("inf"), float("nan"), 2.0**-40])
def test_fp16_blocks_refuse_an_fp32_matrix_that_they_would_change(changed: float) -> None:
    weight = torch.ones(32, 64)
    fp16_blocks(weight.clone(), None)
    weight[7, 9] = changed
    with pytest.raises(RuntimeError, match=r"^the matrix has numbers that"):
        fp16_blocks(weight, None)


def test_a_matrix_is_packed_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "BLOCK_NUMBERS", 64 * 30)
    torch.manual_seed(0)
    weight, bias, x = torch.randn(100, 64).bfloat16(), torch.randn(100), torch.randn(3, 64)
    got = fp16_blocks(weight.clone(), bias)(x)
    torch.testing.assert_close(got, x @ weight.float().T + bias, atol=1e-4, rtol=0)
