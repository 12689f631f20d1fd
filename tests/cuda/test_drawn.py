"""Drawn tokens on a GPU that is not there: all rows of a frame together, without waiting for it."""

from __future__ import annotations

import pytest

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.sampling import SampleRow
from tests.cuda.counts import kernels
from tests.cuda.recording import Load, MetaStage, load_and_record

EVERYTHING = Sampling(
    temperature=0.8, top_k=40, top_p=0.9, min_p=0.05, repetition_penalty=1.1,
    presence_penalty=0.5, frequency_penalty=0.5, logit_bias=((3, -100.0),), top_logprobs=5, seed=1,
)  # fmt: skip
KINDS = {
    "temperature": Sampling(temperature=1.0, seed=1),
    "top_p": Sampling(temperature=1.0, top_p=0.9, seed=1),
    "all": EVERYTHING,
}


@pytest.fixture(scope="module")
def stage() -> MetaStage:
    last = Stage(LayerRange(1, 2), embedding=False, head=True)
    return load_and_record(
        Load(spec=SHAPES["llama-2-13b"], stage=last, dtype=Dtype.FP16, frame_tokens_max=8)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_eight_rows_start_as_many_kernels_as_two_and_hardly_more_than_one(
    stage: MetaStage, kind: str
) -> None:
    started = {rows: launches(stage, rows, KINDS[kind]) for rows in (1, 2, 8)}

    assert started[8] == started[2]
    assert started[1] <= started[2] <= started[1] + 8
    assert started[8] <= (20 if kind == "temperature" else 70)


def test_rows_apart_are_taken_and_put_back_together(stage: MetaStage) -> None:
    apart = {row: EVERYTHING if row % 2 else Sampling() for row in range(8)}

    assert frame(stage, apart) <= launches(stage, 8, EVERYTHING) + 8


def launches(stage: MetaStage, rows: int, sampling: Sampling) -> int:
    return frame(stage, dict.fromkeys(range(rows), sampling))


def frame(stage: MetaStage, wanted: dict[int, Sampling]) -> int:
    segments = [PagedSegment((2 * row, 2 * row + 1), 17, 1) for row in wanted]
    asked = {
        row: SampleRow(each, 17, (5, 6, 7), (8, 9, 8), b"\xff" * 40 if each is EVERYTHING else b"")
        for row, each in wanted.items()
    }
    return kernels(stage.compute(segments, asked)).total()
