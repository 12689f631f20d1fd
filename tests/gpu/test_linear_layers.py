"""What only a card can show of linear layers: bf16 on tensor cores, and a trial by its times."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edgeserve.families.spec import Dtype
from edgeserve.model.cuda_linear import cuda_preparation, quantised_linear
from edgeserve.model.fastest_linear import FastestLinear
from edgeserve.model.product import Product
from tests.kernels.test_linear import Shape, assert_exact

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU"),
]
CUDA = torch.device("cuda")


def processors() -> int:
    return int(torch.cuda.get_device_properties(CUDA).multi_processor_count)


@torch.inference_mode()
@pytest.mark.parametrize("columns", [70, 2048])
@pytest.mark.parametrize("tokens", [1, 5, 20, 65])
@pytest.mark.parametrize("kind", ["half", "int8", "int4"])
def test_products_of_bf16_are_exact(kind: str, tokens: int, columns: int) -> None:
    shape = Shape(kind=kind, tokens=tokens, rows=77, columns=columns, group=64, bias=True)

    assert_exact(shape, torch.bfloat16, CUDA, processors())


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [Dtype.INT8, Dtype.INT4])
def test_layers_of_a_real_size_are_near_to_those_in_bf16(dtype: Dtype) -> None:
    weight = torch.randn(5120, 5120, device=CUDA, dtype=torch.bfloat16)
    multiply = quantised_linear(dtype, processors())(weight, None)
    for tokens in (1, 8, 48, 300):
        x = torch.randn(tokens, 5120, device=CUDA, dtype=torch.bfloat16)
        exact = functional.linear(x.float(), weight.float())

        off = multiply(x).float() - exact

        assert off.norm() / exact.norm() < {Dtype.INT8: 0.015, Dtype.INT4: 0.13}[dtype]


@torch.inference_mode()
def test_a_trial_chooses_and_changes_no_more_than_rounding() -> None:
    prepare = cuda_preparation(Dtype.FP16, processors())
    assert isinstance(prepare, FastestLinear)
    layers = [Product(5120, 5120, bias=True, dtype=torch.float16, device=CUDA) for _ in range(3)]
    inputs = [torch.randn(tokens, 5120, device=CUDA).half() for tokens in (1, 9, 40, 100)]
    for layer in layers:
        layer.weight.normal_(0, 0.02)
        assert layer.bias is not None
        layer.bias.normal_()
        prepare("layers.0.attn_out", layer)
    want = [[layer(x) for x in inputs] for layer in layers]

    prepare.finish()

    [tried] = prepare.tried.values()
    assert set(tried.us) == {"cuBLAS", "Triton"}, prepare.report()
    for layer, exact in zip(layers, want, strict=True):
        for x, out in zip(inputs, exact, strict=True):
            torch.testing.assert_close(layer(x), out, atol=4e-3, rtol=4e-3)
