"""What a frame costs the processor before a GPU's worker may launch it: `python -m
benchmarks.frame_cost`.

The table of a decode and its hidden states, for graphs of several sizes, put where one copy takes
them from. Time is that of the processor spent on it, so that a busy machine does not count. There
is no GPU in it: memory is not pinned, and nothing is copied to a device.
"""

from __future__ import annotations

import statistics
import time

import torch

from edgeserve.families.folder import open_model
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import DECODE_QUERIES, Extent, pages_each, tiles_of
from edgeserve.worker.frame_input import FrameInput, InputRow

MODEL = "llama-2-13b"
ROWS = (1, 8, 24, 64)
SO_FAR = 1000
"""Tokens of each sequence."""
ROUNDS = 300


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'rows':>4}{'bytes':>10}{'us':>8}  (median)")
    for rows in ROWS:
        size, taken_us = _measured(rows)
        print(f"{rows:>4}{size:>10}{taken_us:>8.0f}")


@torch.inference_mode()
def _measured(rows: int) -> tuple[int, float]:
    """Bytes to copy, and the processor's time."""
    spec = open_model(MODEL).spec
    extent = Extent(
        rows=rows, asked=rows, tiles=rows, tile_queries=DECODE_QUERIES, parts=1, segments=rows,
        pages_each=pages_each(spec.context_tokens, 10**6),
    )  # fmt: skip
    row = InputRow(shape=(spec.hidden,), dtype=torch.float16)
    x = torch.zeros((rows, spec.hidden), dtype=torch.float16)
    pages = -(-SO_FAR // PAGE_TOKENS) + 1
    tables = [tuple(range(pages * at, pages * (at + 1))) for at in range(rows)]
    taken_us = []
    for _ in range(ROUNDS):
        start_s = time.thread_time()
        segments = [PagedSegment(each, SO_FAR, 1) for each in tables]
        filled = FrameInput.empty(extent, row, "cpu")
        filled.table.fill(segments, range(rows), tiles_of(segments, DECODE_QUERIES))
        filled.x[: len(x)].copy_(x)
        taken_us.append(1e6 * (time.thread_time() - start_s))
    return filled.flat.nbytes, statistics.median(taken_us)


if __name__ == "__main__":
    main()
