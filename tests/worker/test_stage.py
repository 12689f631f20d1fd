"""A stage that stays: when a worker may answer `Load` with what it has, and when it must read
again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgeserve.clock import MonotonicClock
from edgeserve.config import WorkerSettings
from edgeserve.errors import BadModel, WireError
from edgeserve.families.checkpoint import INDEX
from edgeserve.families.folder import open_model
from edgeserve.families.rules import EMBEDDING
from edgeserve.families.spec import Dtype
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import cut
from edgeserve.wire.frame import Frame, FrameResult, Open, Score
from edgeserve.wire.messages import LoadOrder
from edgeserve.worker.device import open_device
from edgeserve.worker.sequences import OpenSequence
from edgeserve.worker.stage import ResidentStage, Taken, load_stage
from tests.model.tiny import save_tiny


@pytest.fixture
def resident(tmp_path: Path) -> ResidentStage:
    save_tiny("llama2", tmp_path)
    spec = open_model(str(tmp_path)).spec
    clock = MonotonicClock()
    order = LoadOrder(
        epoch=1, model=str(tmp_path), spec_hash=spec.spec_hash, stage=cut((2, 2))[1],
        dtype=Dtype.FP32, pages=4, frame_tokens_max=32,
    )  # fmt: skip
    device = open_device(WorkerSettings(device="cpu", memory=2**30, threads=1), clock)
    return load_stage(order, str(tmp_path), device, lambda _done, _total: None, clock)


def test_the_same_order_of_a_later_gateway_is_held(resident: ResidentStage) -> None:
    order = replace(resident.order, epoch=2)

    assert resident.holds(order, order.model)


@pytest.mark.parametrize(
    "change", [{"pages": 5}, {"dtype": Dtype.BF16}, {"stage": cut((2, 2))[0]}], ids=str
)
def test_another_order_is_not_held(resident: ResidentStage, change: dict[str, object]) -> None:
    order = replace(resident.order, **change)  # type: ignore[arg-type]

    assert not resident.holds(order, order.model)


def test_weights_that_changed_in_their_folder_are_not_held(resident: ResidentStage) -> None:
    file = Path(resident.order.model) / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = torch.zeros_like(tensors["lm_head.weight"])
    save_file(tensors, file, metadata={"format": "pt"})

    assert not resident.holds(resident.order, resident.order.model)


def test_a_folder_that_lacks_a_file_of_another_stage_is_refused(resident: ResidentStage) -> None:
    """Only what was fetched for a stage may be a part."""
    folder = Path(resident.order.model)
    names = load_file(folder / "model.safetensors")
    weight_map = dict.fromkeys(names, "model.safetensors") | {EMBEDDING: "gone.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    order, device = resident.order, resident.device

    with pytest.raises(BadModel, match=r"gone\.safetensors is missing"):
        load_stage(order, order.model, device, lambda _done, _total: None, MonotonicClock())


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # as the worker does
def test_a_token_is_remembered_by_a_sequence_that_is_penalised(
    resident: ResidentStage,
) -> None:
    kinds = [Sampling(repetition_penalty=1.5), Sampling(), Sampling(frequency_penalty=0.5)]

    sequences, result = computed(resident, kinds)

    assert [each.sequence for each in result.sampled] == [0, 1, 2]
    assert [each.prompt for each in sequences] == [(7, 8)] * 3
    tokens = [each.token for each in result.sampled]
    assert [each.generated for each in sequences] == [tokens[:1], [], tokens[2:]]
    assert result.payload == b""


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_the_most_likely_tokens_are_told_to_those_who_ask(resident: ResidentStage) -> None:
    _, result = computed(resident, [Sampling(top_logprobs=2), Sampling()])

    asking, other = result.sampled
    assert asking.top[0] == (asking.token, asking.logprob)
    assert len(asking.top) == 2
    assert other.top == ()
    assert other.token == asking.token


@pytest.mark.parametrize(
    "strange", [{"sampling": Sampling(logit_bias=((98, 1.0), (99, 1.0)))}, {"history": (5, 99)}],
    ids=["bias", "history"],
)  # fmt: skip
def test_a_token_beyond_the_vocabulary_is_refused_before_the_device_sees_it(
    strange: dict[str, Any], resident: ResidentStage
) -> None:
    opened = Open(**{"sequence": 4, "pages": (1,), "sampling": Sampling(), **strange})
    frame = Frame(frame=1, open=(opened,), segments=(), payload=b"")

    with pytest.raises(WireError, match="sequence 4 samples with token 99; the vocabulary has 99"):
        resident.new_table().take(frame)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_a_token_is_one_that_its_mask_allows_and_the_neighbour_has_its_own(
    resident: ResidentStage,
) -> None:
    kinds = [Sampling(), Sampling(temperature=2.0, seed=3), Sampling()]
    _, free = computed(resident, kinds)
    allowed = {0: bits(40, 96), 1: bits(3)}

    _, held = computed(resident, kinds, allowed)

    tokens = [each.token for each in held.sampled]
    assert tokens[0] in {40, 96}
    assert tokens[1] == 3
    assert held.sampled[2] == free.sampled[2]
    assert free.sampled[0].token not in {40, 96}


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({5: b"\x01"}, "sequence 5 has a mask, but is not sampled once in frame 1"),
        ({0: b"\x01"}, "sequence 0 has a mask, but is not sampled once in frame 1"),
        ({1: b""}, "sequence 1: its mask of 0 bytes allows none of the 99 tokens"),
        ({1: bytes(13)}, "sequence 1: its mask of 13 bytes allows none"),
        ({1: bytes(12) + b"\x08"}, "sequence 1: its mask of 13 bytes allows none"),
        #    token 99, the first that is not there
    ],
)
def test_a_mask_that_allows_nothing_or_is_of_nobody_is_refused(
    masks: dict[int, bytes], said: str, resident: ResidentStage
) -> None:
    opens = tuple(Open(sequence=i, pages=(i,), sampling=Sampling()) for i in range(2))
    segments = tuple(
        Segment(sequence=i, first_position=0, tokens=2, samples=2 - i) for i in range(2)
    )
    frame = Frame(frame=1, open=opens, segments=segments, payload=bytes(4 * 32 * 4), masks=masks)

    with pytest.raises(WireError, match=said):
        resident.new_table().take(frame)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_prompt_tokens_are_scored_by_their_own_rows_beside_others_that_are_sampled(
    resident: ResidentStage,
) -> None:
    rows = torch.randn((9, 32), generator=torch.Generator().manual_seed(5))

    def run(first: int, end: int, score: Score | None, sequence: int = 1) -> FrameResult:
        segment = Segment(sequence=sequence, first_position=first, tokens=end - first, samples=1)
        return launched(resident, [(segment, rows[first:end], score)])

    whole = run(0, 9, Score(first_position=1, tokens=(11, 12, 13, 14, 15, 16, 17, 18)))
    assert [each.token for each in whole.scored] == [11, 12, 13, 14, 15, 16, 17, 18]
    assert all(each.logprob < 0 and each.top == () for each in whole.scored)
    [likeliest] = run(0, 3, None).sampled
    [same] = run(0, 9, Score(first_position=3, tokens=(likeliest.token,))).scored
    assert same.rank == 1, "the token behind three is that of the third row"
    assert same.logprob == pytest.approx(likeliest.logprob, abs=1e-5)
    part = Score(first_position=4, tokens=(14, 15), top_logprobs=3)
    neighbour = (Segment(sequence=2, first_position=0, tokens=2, samples=0), rows[:2], None)
    chunk = Segment(sequence=1, first_position=0, tokens=9, samples=1)
    beside = launched(resident, [neighbour, (chunk, rows, part)])

    assert [each.sequence for each in beside.scored] == [1, 1]
    for got, want in zip(beside.scored, whole.scored[3:5], strict=True):
        assert (got.token, got.rank) == (want.token, want.rank)
        assert got.logprob == pytest.approx(want.logprob, abs=1e-5)
        assert len(got.top) == 3
    assert [each.token for each in beside.sampled] == [each.token for each in whole.sampled]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ({5: Score(first_position=1, tokens=(3,))}, "sequence 5 is to be scored at positions"),
        ({1: Score(first_position=1, tokens=())}, r"positions \[1, 1\), but they do not follow"),
        ({1: Score(first_position=0, tokens=(3,))}, r"positions \[0, 1\), but they do not"),
        ({1: Score(first_position=4, tokens=(3,))}, r"positions \[4, 5\), but they do not"),
        ({1: Score(first_position=7, tokens=(3, 4))}, r"positions \[7, 9\), but they do not"),
        #    of positions [4, 7): the tokens behind them are [5, 8)
        ({1: Score(first_position=7, tokens=(99,))}, "scored for token 99; the vocabulary has 99"),
        (
            {1: Score(first_position=5, tokens=(3,), top_logprobs=21)},
            "wants 21 tokens told beside each; at most 20 are",
        ),
    ],
)
def test_a_score_of_what_is_not_in_the_frame_is_refused(
    scores: dict[int, Score], said: str, resident: ResidentStage
) -> None:
    opened = Open(sequence=1, pages=(0,), sampling=Sampling())
    segment = Segment(sequence=1, first_position=4, tokens=3, samples=0)
    frame = Frame(
        frame=1, open=(opened,), segments=(segment,), payload=bytes(3 * 32 * 4), scores=scores
    )

    with pytest.raises(WireError, match=said):
        resident.new_table().take(frame)


@torch.inference_mode()
def launched(
    resident: ResidentStage, fed: Sequence[tuple[Segment, Tensor, Score | None]]
) -> FrameResult:
    """One frame, each of whose sequences has a page of its own."""
    clock = MonotonicClock()
    frame = Frame(
        frame=1,
        open=tuple(
            Open(sequence=each.sequence, pages=(each.sequence,), sampling=Sampling())
            for each, _, _ in fed
        ),
        segments=tuple(each for each, _, _ in fed),
        payload=torch.cat([rows for _, rows, _ in fed]).numpy().tobytes(),
        scores={each.sequence: score for each, _, score in fed if score is not None},
    )
    running = resident.launch(frame, resident.new_table().take(frame), clock)
    return running.finish(Taken(received_s=0.0, decode_s=0.0, started_s=0.0), clock)


def bits(*tokens: int) -> bytes:
    return sum(1 << token for token in tokens).to_bytes(13, "little")


@torch.inference_mode()
def computed(
    resident: ResidentStage, kinds: Sequence[Sampling], masks: Mapping[int, bytes] | None = None
) -> tuple[list[OpenSequence], FrameResult]:
    """One frame, in which a sequence of each kind has the same prompt of two tokens."""
    clock = MonotonicClock()
    frame = Frame(
        frame=1,
        open=tuple(
            Open(sequence=number, pages=(number,), sampling=each, history=(7, 8))
            for number, each in enumerate(kinds)
        ),
        segments=tuple(
            Segment(sequence=number, first_position=0, tokens=2, samples=1)
            for number in range(len(kinds))
        ),
        payload=torch.ones((2 * len(kinds), 32)).numpy().tobytes(),
        masks=masks or {},
    )
    sequences = resident.new_table().take(frame)
    launched = resident.launch(frame, sequences, clock)
    return sequences, launched.finish(Taken(received_s=0.0, decode_s=0.0, started_s=0.0), clock)


@dataclass
class GraphsOf:
    """Of a GPU's stage, how many tokens are one recorded graph."""

    tokens: int

    def is_recorded(self, tokens: int) -> bool:
        return tokens <= self.tokens


@dataclass(kw_only=True)
class Fed:
    """What a frame of one sequence has, and whether any thread may launch it."""

    may: bool
    tokens: int = 1
    samples: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    masks: dict[int, bytes] = field(default_factory=dict)
    scores: dict[int, Score] = field(default_factory=dict)


SCORED = Score(first_position=1, tokens=(4,))


@pytest.mark.parametrize(
    "fed",
    [
        Fed(may=True),
        Fed(may=True, tokens=64, samples=3),
        Fed(may=False, tokens=65),
        Fed(may=False, sampling=Sampling(temperature=1.0)),
        Fed(may=True, tokens=2, samples=0, sampling=Sampling(temperature=1.0)),
        Fed(may=False, sampling=Sampling(top_logprobs=3)),
        Fed(may=False, sampling=Sampling(logit_bias=((3, 1.0),))),
        Fed(may=False, sampling=Sampling(repetition_penalty=1.2)),
        Fed(may=False, masks={1: bits(3)}),
        Fed(may=False, tokens=2, scores={1: SCORED}),
    ],
    ids=str,
)
@pytest.mark.parametrize("known", [True, False], ids=["open before", "opened with it"])
def test_any_thread_may_launch_one_graph_that_takes_the_most_likely_tokens(
    known: bool, fed: Fed, resident: ResidentStage
) -> None:
    on_gpu: Any = GraphsOf(64)
    stage = replace(resident, cuda_frames=on_gpu)
    table = stage.new_table()
    opened = Open(sequence=1, pages=(0, 1, 2, 3), sampling=fed.sampling, history=(7,))
    if known:
        table._open[1] = table._opened(opened)
    segment = Segment(sequence=1, first_position=0, tokens=fed.tokens, samples=fed.samples)
    frame = Frame(
        frame=1, open=() if known else (opened,), segments=(segment,), payload=b"",
        masks=fed.masks, scores=fed.scores,
    )  # fmt: skip

    assert stage.any_thread_may_launch(frame, table) == fed.may
    assert resident.any_thread_may_launch(frame, table), "a CPU has no threads to tell apart"
