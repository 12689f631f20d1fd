"""More tokens of one frame than a graph has rows: drafts, or many sequences beside a prompt."""

from __future__ import annotations

import pytest

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import PAGE_TOKENS, Dtype
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.sampling import SampleRow
from tests.cuda.events import Allocated, Event, Freed
from tests.cuda.recording import Load, MetaStage, load_and_record

TOKENS = 320
SPEC = SHAPES["qwen2.5-7b"]
LIKELY = Sampling()
DRAWN = Sampling(temperature=1.0, top_p=0.9, top_logprobs=3, seed=1)


@pytest.fixture(scope="module")
def stage() -> MetaStage:
    last = Stage(LayerRange(0, 1), embedding=False, head=True)
    return load_and_record(Load(spec=SPEC, stage=last, dtype=Dtype.FP16, frame_tokens_max=TOKENS))


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [LIKELY, DRAWN], ids=["likely", "drawn"])
def test_two_hundred_rows_take_no_more_memory_at_once_than_sixty_four(
    stage: MetaStage, sampling: Sampling
) -> None:
    few, many = (asked(stage, rows, sampling) for rows in (64, 200))

    assert largest(many) == largest(few)
    assert peak(many) - peak(few) < 2**20, "what is kept of a row is a handful of numbers"


def asked(stage: MetaStage, rows: int, sampling: Sampling) -> list[Event]:
    """What a frame does whose last rows are asked for."""
    segment = PagedSegment(tuple(range(TOKENS // PAGE_TOKENS)), 0, TOKENS)
    return stage.compute(
        [segment], {TOKENS - row: SampleRow(sampling, row, ()) for row in range(rows, 0, -1)}
    )


def largest(events: list[Event]) -> int:
    return max(each.bytes for each in events if isinstance(each, Allocated))


def peak(events: list[Event]) -> int:
    """Of the memory that the frame itself has taken."""
    sizes = {each.storage: each.bytes for each in events if isinstance(each, Allocated)}
    taken = most = 0
    for each in events:
        if isinstance(each, Allocated):
            taken += each.bytes
        elif isinstance(each, Freed):
            taken -= sizes.get(each.storage, 0)
        most = max(most, taken)
    return most
