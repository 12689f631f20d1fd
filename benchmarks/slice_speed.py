"""How fast one slice computes, in this process, with no network: prepared products and grouped
attention against plain ones with attention sequence by sequence.

    GOMP_SPINCOUNT=20000 python benchmarks/slice_speed.py --layers 8 --dtype bf16

Both sides hold the same random weights and take turns, ABBA; medians. "Plain" is what the
tests compare with: `F.linear`, and PyTorch's attention once for each sequence.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch

from edgeserve.clock import ProcessorTime
from edgeserve.families.folder import open_model
from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.stage import cut
from edgeserve.model import batch as batches
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.packed import FastestLayout
from edgeserve.model.pages import KvPages
from edgeserve.model.product import LeavePlain, Preparation
from edgeserve.model.quantised import Quantise
from edgeserve.model.slice import Slice
from edgeserve.model.weights import WeightForm, random_slice
from edgeserve.worker.stage import TORCH_DTYPES


@dataclass(frozen=True)
class Load:
    """Sequences of the frame, the tokens that each has behind it, and those it brings."""

    sequences: int
    context: int
    tokens: int = 1

    def __str__(self) -> str:
        what = "decode" if self.tokens == 1 else f"{self.tokens} tokens"
        return f"{what}, batch {self.sequences}, context {self.context}"


LOADS = (
    *(Load(1, context) for context in (16, 128, 1024)),
    *(Load(8, context) for context in (16, 128, 1024)),
    *(Load(16, context) for context in (16, 128, 1024)),
    Load(24, 128), Load(1, 128, 5), Load(8, 128, 5), Load(1, 0, 256), Load(1, 256, 256),
)  # fmt: skip


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    spec = open_model(options.shape).spec
    dtype = Dtype(options.dtype)
    prepared = _slice(spec, options.layers, _preparation(dtype), dtype)
    plain = None if options.alone else _slice(spec, options.layers, LeavePlain(), dtype)
    print(f"{options.shape}, {options.layers} layers and head, {dtype}, {options.threads} threads")
    print("| load | plain, ms | prepared, ms | prepared, tokens/s | ratio |")
    print("|---|--:|--:|--:|--:|")
    with torch.inference_mode():
        for load in LOADS:
            _row(load, plain, prepared, dtype)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="bench-1b")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", default="bf16", choices=[*Dtype])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", action="store_true", help="leave the plain side out")
    return parser.parse_args()


def _preparation(dtype: Dtype) -> Preparation:
    return Quantise(dtype=dtype) if dtype.is_quantised else FastestLayout(clock=ProcessorTime())


def _slice(spec: ModelSpec, layers: int, prepare: Preparation, dtype: Dtype) -> Slice:
    stage = replace(cut((spec.layers,))[0], layers=cut((layers,))[0].layers, embedding=False)
    form = WeightForm(TORCH_DTYPES[dtype], prepare=prepare)
    start_s = time.perf_counter()
    made = random_slice(spec, stage, form, lambda _done, _total: None).slice
    print(f"loaded in {time.perf_counter() - start_s:.1f} s. {prepare.report()}")
    return made


def _row(load: Load, plain: Slice | None, prepared: Slice, dtype: Dtype) -> None:
    ours, theirs = _step(prepared, load, dtype), None
    if plain is not None:
        theirs = _by_segment(_step(plain, load, dtype))
    ours_s, theirs_s = _abba(ours, theirs or ours)
    tokens = load.sequences * load.tokens
    print(
        f"| {load} | {1e3 * theirs_s:.2f} | {1e3 * ours_s:.2f} | {tokens / ours_s:.1f} "
        f"| {theirs_s / ours_s:.2f} |",
        flush=True,
    )


def _step(slice_: Slice, load: Load, dtype: Dtype) -> Callable[[], None]:
    """One frame, batch included, as a worker runs it."""
    torch_dtype = TORCH_DTYPES[dtype]
    each = (load.context + load.tokens - 1) // PAGE_TOKENS + 1
    pages = KvPages(slice_.spec, len(slice_.layers), each * load.sequences, torch_dtype, "cpu")
    pages.keys_LPKH.normal_()
    pages.values_LPKH.normal_()
    segments = [
        PagedSegment(tuple(range(i * each, (i + 1) * each)), load.context, load.tokens)
        for i in range(load.sequences)
    ]
    x = torch.randn(load.sequences * load.tokens, slice_.spec.hidden).to(torch_dtype)

    def run() -> None:
        hidden = slice_(x, PackedBatch.build(segments, "cpu"), pages)
        slice_.logits(hidden[-load.sequences :])

    return run


def _by_segment(run: Callable[[], None]) -> Callable[[], None]:
    """With the reference's attention."""

    def plainly() -> None:
        with patch.object(
            batches.PackedBatch, "groups", lambda self, window, _dtype: self.reads(window)
        ):
            run()

    return plainly


def _abba(ours: Callable[[], None], theirs: Callable[[], None]) -> tuple[float, float]:
    rounds = max(3, min(12, round(1.0 / _time_s(ours))))
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for side in (0, 1) if number % 2 else (1, 0):
            found[side].append(_time_s((ours, theirs)[side]))
    return statistics.median(found[0]), statistics.median(found[1])


def _time_s(run: Callable[[], None]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
