"""How much of a worker's memory is neither weights nor pages: one number for a kind of device.

It has to be known before anything is loaded, so it is a bound and not a measurement.
"""

from __future__ import annotations

MB = 10**6

CUDA_CONTEXT_BYTES = 350 * MB
"""The middle of the 250 to 450 MB that the CUDA context with PyTorch's kernels takes, by driver and
card. No allocator sees it."""
CUDA_RESERVE_BYTES = CUDA_CONTEXT_BYTES + 250 * MB
"""Beside the context. A frame of 320
tokens (a prefill chunk of 256 and 64 decodes) needs 320 x 13,824 x 3 x 2 B = 27 MB for the
feed-forward of a 13B model, 64 x 32,000 x 4 B = 8 MB for logits and about as much for attention;
CUDA graphs keep the same once more, for 64 tokens; cuBLAS keeps 32 MB of workspace for each of the
two. The rest is what the allocator loses to rounding."""
CPU_RESERVE_BYTES = 300 * MB
"""A process that has imported PyTorch and gRPC holds 240 MB; the frame's activations are 50 MB."""
CPU_MEMORY_SHARE = 0.8
"""Of what is free on a CPU box when its worker starts; the rest is for the other programs."""


def reserve_bytes(device: str) -> int:
    """`device` is "cuda" or "cpu"."""
    return {"cuda": CUDA_RESERVE_BYTES, "cpu": CPU_RESERVE_BYTES}[device]
