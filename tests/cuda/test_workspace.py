"""Terms of what a stage reserves on a GPU, each beside what its recording takes in the model of
PyTorch's allocator: the sum alone would hide a term that is too small behind one too large.
"""

from __future__ import annotations

import functools

import pytest
import torch

from edgeserve.cost.reserve import CUBLAS_BYTES, DRAWN_BYTES, DRAWN_NUMBERS, GRAPH_ROWS, workspace
from edgeserve.cost.segments import MIB
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.sampling import most_likely, sample
from edgeserve.worker.cuda_frames import Processors
from tests.cuda.allocator import CachingAllocator
from tests.cuda.events import Event
from tests.cuda.meta_device import META, MetaDevice
from tests.cuda.recording import RTX_3060
from tests.cuda.replay import DRAWN, Replay, record_frames

MIDDLE = Stage(LayerRange(0, 1), embedding=False, head=False)
LAST = Stage(LayerRange(0, 1), embedding=False, head=True)
TOKENS = 128
HOLES_BYTES = 4 * MIB
"""In segments: the term for gaps has them."""
recorded = functools.cache(record_frames)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [MIDDLE, LAST], ids=["middle", "last"])
@pytest.mark.parametrize("dtype", [Dtype.FP16, Dtype.FP32])
@pytest.mark.parametrize("shape", ["llama-2-13b", "qwen2.5-7b"])
def test_the_term_for_graphs_is_what_their_pool_takes(
    shape: str, dtype: Dtype, stage: Stage
) -> None:
    taken = replayed(recorded(SHAPES[shape], stage, dtype, TOKENS)).reserved_by_pool["graphs"]

    counted = workspace(SHAPES[shape], stage, dtype, TOKENS).graphs
    assert taken - HOLES_BYTES <= counted <= 2 * taken


@pytest.mark.slow
@pytest.mark.parametrize("processors", [28, 82, 108, 132, 188, 256])
@pytest.mark.parametrize("shape", ["llama-3-8b", "llama-2-70b", "qwen2.5-7b"])
def test_parts_of_sequences_fit_however_many_processors_a_card_has(
    shape: str, processors: int
) -> None:
    """An RTX 3060 has 28, a 3090 82, an A100 108, an H100 132, an RTX PRO 6000 188."""
    card = Processors(count=processors, shared_bytes=RTX_3060.shared_bytes)
    memory = replayed(recorded(SHAPES[shape], MIDDLE, Dtype.FP16, GRAPH_ROWS[-1], card))

    counted = workspace(SHAPES[shape], MIDDLE, Dtype.FP16, GRAPH_ROWS[-1])
    assert memory.reserved_peak_bytes <= counted.bytes - counted.rounding
    if processors <= 132:  # a smaller graph may have a few parts more, in a segment of their own
        assert memory.reserved_by_pool["graphs"] <= counted.graphs + counted.gaps


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [32_000, 152_064])
def test_drawing_takes_as_many_bytes_for_each_logit_as_are_counted(vocab: int) -> None:
    device, rows = MetaDevice(), 64
    with torch.inference_mode(), device:
        logits = torch.empty((rows, vocab), device=META)
        likely, before = most_likely(logits), len(device.events)
        sample(likely, logits, [DRAWN] * rows)

    taken = replayed(device.events[before:]).live_peak_bytes
    at_a_time = DRAWN_NUMBERS // vocab * vocab
    assert taken / at_a_time == pytest.approx(sum(DRAWN_BYTES), abs=2)


def replayed(events: list[Event]) -> CachingAllocator:
    """On a card with room for anything."""
    memory = Replay(allocator=CachingAllocator(2**40), workspace_bytes=CUBLAS_BYTES)
    memory.play(events)
    return memory.allocator
