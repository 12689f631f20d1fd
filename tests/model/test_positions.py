"""Rotary frequencies and rotations, against transformers and against what rotating means."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import LinearScaling, Llama3Scaling, Rotary
from edgeserve.model.positions import angles, frequencies, rotate

LLAMA_3_1 = SHAPES["llama-3.1-8b"].positions
STEEP = Llama3Scaling(
    factor=32.0, low_freq_factor=1.5, high_freq_factor=3.0, original_context_tokens=500
)


@pytest.mark.parametrize(
    "rotary",
    [LLAMA_3_1, Rotary(dims=64, theta=1e4, scaling=STEEP)],
    ids=["llama-3.1", "steep"],
)
def test_llama3_frequencies_are_those_of_transformers(rotary: Rotary) -> None:
    scaling = rotary.scaling
    assert isinstance(scaling, Llama3Scaling)
    config = LlamaConfig(
        hidden_size=rotary.dims * 2,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": rotary.theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_tokens,
        },
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, device="cpu")
    torch.testing.assert_close(frequencies(rotary, "cpu"), theirs, rtol=1e-6, atol=0)


def test_linear_scaling_divides_positions() -> None:
    plain = Rotary(dims=16, theta=1e4)
    scaled = Rotary(dims=16, theta=1e4, scaling=LinearScaling(factor=4.0))
    at_3 = angles(torch.tensor([3]), frequencies(plain, "cpu"), torch.float32)
    at_12 = angles(torch.tensor([12]), frequencies(scaled, "cpu"), torch.float32)
    torch.testing.assert_close(at_3, at_12)


def test_scores_depend_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 16), torch.randn(1, 2, 16)
    f = frequencies(Rotary(dims=16, theta=100.0), "cpu")

    def score(at_q: int, at_k: int) -> torch.Tensor:
        turned_q = rotate(q, *angles(torch.tensor([at_q]), f, torch.float32))
        turned_k = rotate(k, *angles(torch.tensor([at_k]), f, torch.float32))
        return (turned_q * turned_k).sum(-1)

    torch.testing.assert_close(score(7, 3), score(104, 100), atol=1e-4, rtol=0)
    assert not torch.allclose(score(7, 3), score(7, 4), atol=1e-2)


def test_numbers_beyond_the_rotated_ones_stay() -> None:
    x = torch.arange(12.0).view(1, 1, 12)
    f = frequencies(Rotary(dims=8, theta=100.0), "cpu")
    turned = rotate(x, *angles(torch.tensor([5]), f, torch.float32))
    assert turned[..., 8:].tolist() == x[..., 8:].tolist()
    assert not torch.equal(turned[..., :8], x[..., :8])


def test_angles_are_exact_far_out_in_bf16() -> None:
    """bf16 holds whole numbers up to 256 only: angles computed in it would be wrong from there."""
    f = frequencies(Rotary(dims=8, theta=10000.0), "cpu")
    cos, _ = angles(torch.tensor([100_001]), f, torch.bfloat16)
    wanted = torch.cos(100_001 * f.double())
    assert cos.dtype == torch.bfloat16
    torch.testing.assert_close(cos[0, 0].double(), wanted, atol=0.02, rtol=0)
