"""Greedy tokens of small models with shaken weights, of each family: on the card in fp32 exactly
the CPU's; in fp16, fed the CPU's tokens, log-probabilities near the CPU's, and its token wherever
two are not nearly as good.

The rehearsal has no card, so the CPU is compared with itself: what the kernels compute on a CPU is
for `tests/kernels`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.setup import Setup
from benchmarks.gpu_check.timing import open_torch_device
from edgeserve.families.spec import Dtype
from edgeserve.frames.sampling import Sampling
from edgeserve.wire.frame import FrameResult, Sampled
from tests.gpu.steps import greedy, halve_weights, stage_on
from tests.model.tiny import save_tiny

Row = dict[str, Any]

NEW_TOKENS = 20
TOLERANCE = 0.05
"""Of a log-probability in fp16. Two tokens that are nearer to each other than twice this may change
places.
"""
TOLD = Sampling(top_logprobs=2)


def measure(setup: Setup, _argument: str) -> Iterator[Row]:
    open_torch_device(setup.device)
    torch.backends.cuda.matmul.allow_tf32 = False
    for dtype in (Dtype.FP16, Dtype.FP32):
        for family in setup.families:
            with tempfile.TemporaryDirectory() as folder:
                row = {"family": family, "dtype": str(dtype)}
                yield row | compared(setup, family, Path(folder), dtype)


def compared(setup: Setup, family: str, folder: Path, dtype: Dtype) -> Row:
    """Both sides have the same weights: they were rounded to fp16 before."""
    save_tiny(family, folder)
    halve_weights(folder)
    wanted, reference = greedy(stage_on("cpu", folder, Dtype.FP32), NEW_TOKENS, TOLD)
    stage = stage_on(setup.device, folder, dtype)
    if dtype is Dtype.FP32:
        found, _ = greedy(stage, NEW_TOKENS, TOLD)
        return {"as_told": found == wanted}
    _, results = greedy(stage, NEW_TOKENS, TOLD, fed=wanted)
    return nearness(_sampled(results), _sampled(reference))


def _sampled(results: Sequence[FrameResult]) -> list[Sampled]:
    return [each.sampled[0] for each in results]


def nearness(ours: Sequence[Sampled], reference: Sequence[Sampled]) -> Row:
    """Log-probabilities of the reference's two likeliest tokens, as far as ours tell them, and the
    tokens of all steps that are clear.
    """
    pairs = list(zip(ours, reference, strict=True))
    off = [
        abs(dict(our.top)[token] - logprob)
        for our, theirs in pairs
        for token, logprob in theirs.top
        if token in dict(our.top)
    ]
    clear = [
        our.token == theirs.token
        for our, theirs in pairs
        if theirs.top[0][1] - theirs.top[1][1] > 2 * TOLERANCE
    ]
    worst = max(off, default=float("inf"))
    return {
        "as_told": all(clear) and worst <= TOLERANCE, "worst_logprob": round(worst, 4),
        "clear_steps": len(clear), "steps": len(pairs),
    }  # fmt: skip
