"""Rotary positions.

Angles are computed in fp32 from the positions of the frame, once for all layers: there is no table
to store, and no longest position.

    T tokens, N heads (of queries or of keys), H head dim, R rotated numbers of a head,
    F = R / 2 frequencies
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeserve.families.spec import LinearScaling, Llama3Scaling, Rotary


def frequencies(rotary: Rotary, device: torch.device | str) -> Tensor:
    """Radians per position, [F], fp32; made on the CPU so that all devices agree."""
    exponents_F = torch.arange(0, rotary.dims, 2, dtype=torch.float32) / rotary.dims
    frequencies_F = 1.0 / rotary.theta**exponents_F
    match rotary.scaling:
        case LinearScaling(factor=factor):
            frequencies_F = frequencies_F / factor
        case Llama3Scaling() as scaling:
            frequencies_F = _llama3(frequencies_F, scaling)
    return frequencies_F.to(device)


def angles(positions_T: Tensor, frequencies_F: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [T, 1, F], to rotate with in `dtype`."""
    angles_T1F = positions_T.float()[:, None, None] * frequencies_F
    return angles_T1F.cos().to(dtype), angles_T1F.sin().to(dtype)


def rotate(x_TNH: Tensor, cos_T1F: Tensor, sin_T1F: Tensor) -> Tensor:
    """Turns the pairs (i, i + F) of each head; numbers from R on stay as they are."""
    half = cos_T1F.shape[-1]
    a_TNF, b_TNF, rest = x_TNH.tensor_split((half, 2 * half), dim=-1)
    turned = (a_TNF * cos_T1F - b_TNF * sin_T1F, b_TNF * cos_T1F + a_TNF * sin_T1F)
    return torch.cat((*turned, rest), dim=-1)


def _llama3(frequencies_F: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Short waves stay, long ones are stretched by `factor`, and those between are blended.

    `blend` is 1 where the original context holds high_freq_factor turns or more, 0 where it holds
    low_freq_factor or fewer.
    """
    turns_F = scaling.original_context_tokens * frequencies_F / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    blend_F = ((turns_F - low) / (high - low)).clamp(0.0, 1.0)
    return blend_F * frequencies_F + (1 - blend_F) * frequencies_F / scaling.factor
