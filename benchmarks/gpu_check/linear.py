"""Linear layers of a decode: how fast each way to compute them reads the weights.

Many copies with weights of their own in one CUDA graph, more than any cache holds; so the time is
the device's alone. The share is of the copy rate that this process measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check.setup import Setup
from benchmarks.gpu_check.timing import copy_bytes_per_s, open_torch_device, recorded_s
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.model.cuda_linear import half_linear, quantised_linear
from edgeserve.model.product import Kernel

Row = dict[str, Any]

LAYERS = ("gate_up", "attn_out", "down", "qkv", "head")
REHEARSED = ("attn_out",)
"""The smallest: interpreted, a number takes microseconds."""
MEMORY_SHARE = 0.4
"""Of what is free, for the copies of one layer."""
CACHES = 3
"""What the copies together are at least, in L2 caches."""
CACHE_BYTES = 50 * 2**20

MakeLinear = Callable[[Tensor, int], Kernel]
"""Of a weight [R, C], on a card with so many multiprocessors."""


def cublas(weight: Tensor, _processors: int) -> Kernel:
    return lambda x: functional.linear(x, weight)


def quantised(dtype: Dtype) -> MakeLinear:
    return lambda weight, processors: quantised_linear(dtype, processors)(weight, None)


CANDIDATES: dict[str, tuple[MakeLinear, Dtype]] = {
    "cublas": (cublas, Dtype.FP16),
    "triton fp16": (lambda weight, processors: half_linear(processors)(weight, None), Dtype.FP16),
    "triton int8": (quantised(Dtype.INT8), Dtype.INT8),
    "triton int4": (quantised(Dtype.INT4), Dtype.INT4),
}
"""How a layer is made of its weight, and as what its bytes are counted."""


def measure(setup: Setup, _argument: str) -> Iterator[Row]:
    device = open_torch_device(setup.device)
    copy_bytes = copy_bytes_per_s(device)
    yield {"copy_gb_s": round(copy_bytes / 1e9, 1)}
    spec = open_model(setup.model).spec
    for rows in setup.rows:
        for name in REHEARSED if setup.is_rehearsal else LAYERS:
            for candidate in CANDIDATES:
                row = {"layer": name, "rows": rows, "candidate": candidate}
                yield row | measured(setup, shape_of(spec, name), rows, candidate, copy_bytes)


def shape_of(spec: ModelSpec, name: str) -> tuple[int, int]:
    """Rows and columns of the weight."""
    return {
        "qkv": (spec.q_rows + 2 * spec.kv_rows, spec.hidden),
        "attn_out": (spec.hidden, spec.q_rows),
        "gate_up": (2 * spec.ffn_hidden, spec.hidden),
        "down": (spec.hidden, spec.ffn_hidden),
        "head": (spec.vocab, spec.hidden),
    }[name]


@torch.inference_mode()
def measured(
    setup: Setup, shape: tuple[int, int], rows: int, candidate: str, copy_bytes_per_s: float
) -> Row:
    """A candidate that cannot do it says why, and the others go on."""
    device = torch.device(setup.device)
    make, dtype = CANDIDATES[candidate]
    weight_bytes = dtype.matrix_bytes(*shape)
    try:
        layers = distinct_layers(setup, shape, make, dtype)
        x = torch.randn((rows, shape[1]), device=device, dtype=activation(setup, dtype))
        taken_s = recorded_s(lambda: [layer(x) for layer in layers], device) / len(layers)
    except Exception as error:  # noqa: BLE001  # a compiler may raise anything
        return {"cannot": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
    rate = weight_bytes / taken_s
    return {
        "us": round(taken_s * 1e6, 1), "gb_s": round(rate / 1e9, 1),
        "copy_share": round(rate / copy_bytes_per_s, 3),
    }  # fmt: skip


def distinct_layers(
    setup: Setup, shape: tuple[int, int], make: MakeLinear, dtype: Dtype
) -> list[Kernel]:
    """As many as are asked for, in turns over as many weights as memory has room for."""
    device, of_numbers = torch.device(setup.device), activation(setup, dtype)
    wanted = max(setup.copies, math.ceil(CACHES * CACHE_BYTES / dtype.matrix_bytes(*shape)))
    if device.type != "cuda":
        wanted = fit = setup.copies
    else:
        torch.cuda.empty_cache()  # what the last layer had is free, too
        plain_bytes = math.prod(shape) * of_numbers.itemsize
        fit = max(1, int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0] / plain_bytes))
    made = [
        make(torch.randn(shape, device=device, dtype=of_numbers) * 0.02, processors_of(device))
        for _ in range(min(wanted, fit))
    ]
    return [made[number % len(made)] for number in range(wanted)]


def processors_of(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def activation(setup: Setup, dtype: Dtype) -> torch.dtype:
    if setup.is_rehearsal:
        return torch.float32
    return torch.bfloat16 if dtype.is_quantised else torch.float16
