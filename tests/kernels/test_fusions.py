"""The small fusions against the same steps one after another, in fp32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.model.frame_table import FIELDS, SLOT_FIELD
from edgeserve.model.kernels.gate import silu_times_up
from edgeserve.model.kernels.norm import add_and_norm, norm
from edgeserve.model.kernels.rotary import HeadNorms, Turns, rotate_and_write
from edgeserve.model.positions import angles, rotate

pytestmark = pytest.mark.slow  # in the interpreter
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
RTOL = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Two units in the last place: the reference rounds once, too."""
SLOTS = 48


def random(*shape: int, seed: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def assert_rounded(ours: Tensor, exact: Tensor) -> None:
    rtol = RTOL[ours.dtype]
    torch.testing.assert_close(ours.float(), exact, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [32, 99, 4100])
def test_a_norm_is_that_of_pytorch(size: int, dtype: torch.dtype, device: torch.device) -> None:
    x = random(3, size, seed=1, device=device, dtype=dtype)
    weight = random(size, seed=2, device=device, dtype=dtype)

    want = functional.rms_norm(x.float(), (size,), weight.float(), 1e-5)

    assert_rounded(norm(x, weight, 1e-5), want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_is_normed_as_it_is_handed_on(dtype: torch.dtype, device: torch.device) -> None:
    x, delta = (random(5, 99, seed=seed, device=device, dtype=dtype) for seed in (3, 4))
    weight, before = random(99, seed=5, device=device, dtype=dtype), x.clone()

    summed, normed = add_and_norm(x, delta, weight, 1e-2)

    assert_rounded(summed, x.float() + delta.float())
    want = functional.rms_norm(summed.float(), (99,), weight.float(), 1e-2)
    assert_rounded(normed, want)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [56, 1024, 1500])
def test_a_gate_lets_through_what_silu_says(
    size: int, dtype: torch.dtype, device: torch.device
) -> None:
    gate_up = 4 * random(3, 2 * size, seed=6, device=device, dtype=dtype)
    gate, up = gate_up.float().chunk(2, dim=-1)

    assert_rounded(silu_times_up(gate_up), functional.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_normed", [False, True], ids=["plain", "normed"])
@pytest.mark.parametrize(("dim", "rotated"), [(64, 64), (80, 80), (12, 12), (80, 32), (128, 128)])
def test_heads_are_normed_turned_and_written_where_they_belong(
    dim: int, rotated: int, is_normed: bool, dtype: torch.dtype, device: torch.device
) -> None:
    tokens, heads, kv_heads = 4, 6, 2
    qkv = random(tokens, (heads + 2 * kv_heads) * dim, seed=7, device=device, dtype=dtype)
    weights = 1 + random(2, dim, seed=8, device=device, dtype=dtype)
    norms = HeadNorms(q_H=weights[0], k_H=weights[1], eps=1e-3) if is_normed else None
    positions = torch.tensor([0, 3, 70, 4001], device=device)
    frequencies = 100.0 ** -torch.linspace(0, 1, rotated // 2, device=device)
    cos, sin = angles(positions, frequencies, torch.float32)
    rows = torch.zeros((tokens, FIELDS), dtype=torch.int32)
    rows[:, SLOT_FIELD] = torch.tensor([40, 7, -1, 23])
    keys, values = torch.full((2, SLOTS, kv_heads, dim), 9.0, device=device, dtype=dtype)
    q, k, v = (
        qkv.clone().float().view(tokens, -1, dim).tensor_split((heads, heads + kv_heads), dim=1)
    )
    if norms is not None:
        q = functional.rms_norm(q, (dim,), norms.q_H.float(), norms.eps)
        k = functional.rms_norm(k, (dim,), norms.k_H.float(), norms.eps)

    turns = Turns(cos_TF=cos[:, 0], sin_TF=sin[:, 0])
    q_TNH = rotate_and_write(qkv, norms, turns, rows.to(device), keys, values)

    assert_rounded(q_TNH, rotate(q, cos, sin))
    for token, slot in ((0, 40), (1, 7), (3, 23)):
        assert_rounded(keys[slot], rotate(k, cos, sin)[token])
        assert torch.equal(values[slot].float(), v[token])
    untouched = [slot for slot in range(SLOTS) if slot not in (40, 7, 23)]
    assert (keys[untouched] == 9).all()
    assert (values[untouched] == 9).all()
