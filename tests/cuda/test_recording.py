"""The whole CUDA path but its numbers, on a GPU that is not there: what a graph may not hold, what
it holds, and what Triton would compile while a user waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import pytest

from edgeserve.cost.reserve import GRAPH_ROWS
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import PAGE_TOKENS, Dtype
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.sampling import SampleRow
from edgeserve.model.scoring import ScoreRow
from tests.cuda.counts import kernels
from tests.cuda.events import Allocated, Event, Freed, Launch, Operator, Phase
from tests.cuda.launches import Specialiser, Variant
from tests.cuda.recording import Load, MetaStage, load_and_record, whole

LLAMA = SHAPES["llama-2-13b"]
DISTINCT = sorted({spec: name for name, spec in SHAPES.items()}.values())
FAMILIES = ("llama-2-13b", "mistral-7b", "qwen2.5-7b", "qwen3-8b")
STAGES = {
    "first": Stage(LayerRange(0, 2), embedding=True, head=False),
    "middle": Stage(LayerRange(2, 4), embedding=False, head=False),
    "last": Stage(LayerRange(4, 6), embedding=False, head=True),
    "whole": Stage(LayerRange(0, 2), embedding=True, head=True),
}
LAYER = {
    "_add_and_norm": 2, "_rotate_and_write": 1, "_attend_part": 1, "_silu_times_up": 1, "mm": 4,
}  # fmt: skip
"""What each layer of a graph starts."""
JOIN = {"_join_parts": 1}
"""And where a sequence may be read in several parts."""
JOINED_ROWS = (1, 2, 4, 8)
"""Graphs of `llama-2-13b` in which it is so on an RTX 3060: its 40 key heads are work enough for 28
processors in the others."""
BESIDE = {
    "first": {"embedding": 1, "_to_copy": 1, "mul.Tensor": 1, "cos": 1, "sin": 1, "add.out": 1},
    "middle": {"_to_copy": 1, "mul.Tensor": 1, "cos": 1, "sin": 1, "add.out": 1},
    "last": {
        "_to_copy": 4, "copy_": 1, "mul.Tensor": 1, "cos": 1, "sin": 1, "add.out": 1,
        "index_select": 1, "rms_norm": 1, "mm": 1, "argmax": 1, "gather": 1, "logsumexp": 1,
        "sub.Tensor": 1, "stack": 1,
    },
}  # fmt: skip
"""What a graph starts beside its layers."""
DRAWN = Sampling(temperature=0.8, top_p=0.9, top_k=40, min_p=0.05, seed=1)
PENALISED = Sampling(
    temperature=1.0, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.5,
    logit_bias=((3, -100.0),), top_logprobs=5,
)  # fmt: skip


@lru_cache(maxsize=2)
def recorded(shape: str, stage: Stage | None = None, dtype: Dtype = Dtype.FP16) -> MetaStage:
    spec = SHAPES[shape]
    return load_and_record(Load(spec=spec, stage=stage or whole(spec, 2), dtype=dtype))


# -- what a graph holds


@pytest.mark.slow
@pytest.mark.parametrize("dtype", Dtype)
@pytest.mark.parametrize("shape", DISTINCT)
def test_every_shape_and_dtype_is_recorded_and_compiles_nothing_afterwards(
    shape: str, dtype: Dtype
) -> None:
    stage = recorded(shape, dtype=dtype)

    assert sorted(stage.recordings) == list(GRAPH_ROWS)
    assert not compiled_in(stage, few_frames(stage))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["middle", "whole"])
@pytest.mark.parametrize("shape", FAMILIES)
def test_no_frame_of_a_family_compiles_anything(shape: str, place: str) -> None:
    stage = recorded(shape, STAGES[place])

    assert not compiled_in(stage, frames(stage))


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_graph_starts_exactly_these_kernels(place: str) -> None:
    stage = recorded("llama-2-13b", STAGES[place])
    layers = len(stage.load.stage.layers)
    expected = {
        rows: Counter(BESIDE[place]) + _times(layers, LAYER | (JOIN if rows in JOINED_ROWS else {}))
        for rows in GRAPH_ROWS
    }

    found = {rows: kernels(events) for rows, events in stage.recordings.items()}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("place", STAGES)
@pytest.mark.parametrize("shape", FAMILIES)
def test_every_family_starts_as_many_kernels_for_each_layer(shape: str, place: str) -> None:
    biased = {"mm": 3, "addmm": 1} if SHAPES[shape].qkv_bias else {"mm": 4}
    two, three = STAGES[place], _longer(STAGES[place])

    counts = [kernels(recorded(shape, each).recordings[8]) for each in (two, three)]

    assert counts[1] - counts[0] == Counter({**LAYER, **JOIN, **biased})


def test_what_a_graph_reads_is_there_as_long_as_the_graph() -> None:
    stage = recorded("llama-2-13b")

    for rows, events in stage.recordings.items():
        made = {each.storage for each in events if isinstance(each, Allocated)}
        gone = outside_memory(events) - made - stage.device.alive.keys()
        assert not gone, f"the graph of {rows} rows reads memory that was given back"


@pytest.mark.parametrize(("place", "row_bytes"), [("middle", 0), ("last", 2 * 8)])
def test_a_graph_gives_back_all_memory_but_its_tokens(place: str, row_bytes: int) -> None:
    """What is large, hidden states and logits, all graphs leave in the same place."""
    stage = recorded("llama-2-13b", STAGES[place])

    for rows, events in stage.recordings.items():
        made = {each.storage for each in events if isinstance(each, Allocated)}
        freed = {each.storage for each in events if isinstance(each, Freed)}
        kept = made - freed
        assert freed <= made
        assert sum(stage.device.alive[each] for each in kept) == rows * row_bytes


# -- what a frame does


def test_a_frame_of_most_likely_tokens_is_its_graph_and_a_copy_each_way() -> None:
    stage = recorded("llama-2-13b")

    events = stage.compute(decodes(8), {row: _row(Sampling()) for row in range(8)})

    assert kernels(events) == Counter({"copy_": 2})


def test_a_long_frame_starts_what_a_graph_does() -> None:
    stage = recorded("llama-2-13b", STAGES["middle"])

    events = stage.compute([prompt(100)], {})

    graph = kernels(stage.recordings[64])
    # Its hidden states have no place to be left in.
    assert kernels(events) - graph == Counter({"copy_": 2, "add.Tensor": 1})
    assert graph - kernels(events) == Counter({"add.out": 1})


def test_nothing_runs_in_a_frame_that_has_not_run_at_load() -> None:
    """A GPU loads the code of a kernel when it first runs, which takes time and memory."""
    stage = recorded("llama-2-13b")
    at_load = kernels(each for each in stage.device.events if each.phase is not Phase.FRAME)

    in_frames = kernels(event for frame in frames(stage) for event in frame)

    assert sorted(in_frames.keys() - at_load.keys() - {"copy_"}) == []


def test_a_frame_keeps_no_memory_of_the_device() -> None:
    stage = recorded("llama-2-13b")
    before = dict(stage.device.alive)

    for _ in frames(stage):
        assert stage.device.alive == before


# -- what it looks at


def frames(stage: MetaStage) -> Iterable[list[Event]]:
    """Of every number of rows, and of all that is computed beside a graph."""
    for rows in range(1, GRAPH_ROWS[-1] + 1):
        yield stage.compute(decodes(rows), _asked(stage, {rows - 1: Sampling()}))
    for tokens in (65, 66, 100, 128, 255, stage.load.frame_tokens_max):
        yield stage.compute([prompt(tokens)], {})
        yield stage.compute([*decodes(3), prompt(tokens - 3)], _asked(stage, {0: DRAWN}))
    yield stage.compute(decodes(4), _asked(stage, {0: DRAWN, 1: PENALISED, 3: Sampling()}))
    many = {**dict.fromkeys(range(254), Sampling()), 254: PENALISED}
    yield stage.compute([prompt(255)], _asked(stage, many))
    if stage.load.stage.head:
        yield stage.compute([prompt(40)], {}, [ScoreRow(row, 5, 3) for row in range(40)])
        yield stage.compute([prompt(90)], {}, [ScoreRow(row, 5, 0) for row in range(90)])


def few_frames(stage: MetaStage) -> Iterable[list[Event]]:
    """Of each kind the ones that differ most."""
    for rows in (1, 3, 16, 47, 64):
        yield stage.compute(decodes(rows), _asked(stage, {0: DRAWN}))
    for tokens in (65, 128, stage.load.frame_tokens_max):
        yield stage.compute([prompt(tokens)], _asked(stage, {tokens - 1: PENALISED}))
    yield stage.compute([prompt(90)], {}, [ScoreRow(row, 5, 0) for row in range(90)])


def compiled_in(stage: MetaStage, frames: Iterable[list[Event]]) -> set[Variant]:
    """What a user would wait for: variants that load has not compiled."""
    at_load = variants(stage.device.events)
    return variants(event for frame in frames for event in frame) - at_load


def decodes(rows: int) -> list[PagedSegment]:
    return [PagedSegment((2 * row, 2 * row + 1), 17, 1) for row in range(rows)]


def prompt(tokens: int) -> PagedSegment:
    pages = -(-tokens // PAGE_TOKENS)
    return PagedSegment(tuple(range(200, 200 + pages)), 0, tokens)


def variants(events: Iterable[Event]) -> set[Variant]:
    return {specialiser().variant(each) for each in events if isinstance(each, Launch)}


@lru_cache
def specialiser() -> Specialiser:
    return Specialiser()


def outside_memory(events: Iterable[Event]) -> set[int]:
    """Pieces of the device's memory that the events read or write."""
    tensors = [
        tensor
        for each in events
        if isinstance(each, Operator | Launch)
        for tensor in each.tensors
        if tensor.device == "meta"
    ]
    return {each.storage for each in tensors}


def _asked(stage: MetaStage, wanted: dict[int, Sampling]) -> dict[int, SampleRow]:
    if not stage.load.stage.head:
        return {}
    return {row: _row(sampling) for row, sampling in wanted.items()}


def _row(sampling: Sampling) -> SampleRow:
    allowed = b"" if sampling.takes_most_likely else b"\xff" * 40
    return SampleRow(sampling, 17, prompt=(5, 6, 7), generated=(8, 9, 8), allowed=allowed)


def _times(layers: int, counts: dict[str, int]) -> Counter[str]:
    return Counter({name: layers * count for name, count in counts.items()})


def _longer(stage: Stage) -> Stage:
    start, end = stage.layers.start, stage.layers.end
    return Stage(LayerRange(start, end + 1), stage.embedding, stage.head)
