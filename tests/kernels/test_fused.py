"""A slice with fused kernels computes what the slice itself computes, for every family and however
the tokens are fed; and `CudaFrames` with its padded rows gives what a frame alone would get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeserve.clock import ManualClock
from edgeserve.families.folder import open_model
from edgeserve.families.spec import ModelSpec
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import Stage, cut
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.fused import Computed
from edgeserve.model.pages import KvPages
from edgeserve.model.sampling import SampleRow, choices, choose
from edgeserve.model.scoring import ScoreRow, score, scores
from edgeserve.model.slice import Slice
from edgeserve.model.weights import WeightForm, load_slice
from edgeserve.worker import cuda_frames
from edgeserve.worker.cuda_frames import CudaFrames, graph_rows
from edgeserve.worker.stopwatch import Stopwatch
from tests.model.tiny import FAMILIES, LAYERS, VOCAB, save_tiny

# Rows of padding compute with what lay in memory, which numpy finds remarkable.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
PAGES = 24
GRAPHS = (1, 2, 4, 8)
"""Fewer and smaller than a worker's: what is interpreted takes its time."""
TOKENS_MAX = 9
ATOL = 2e-4
"""fp32 either way; sums in another order."""

Fed = tuple[tuple[int, ...], int, int]
"""Page table, first position, tokens."""
A, B, C = (4, 5, 6, 7, 8), (9, 2, 17), (20, 21, 0)
BUSY: list[list[Fed]] = [
    [(A, 0, 13)],  # a prompt that no graph holds
    [(A, 13, 1), (B, 0, 3)],  # a decode and another prompt, in a graph for 4
    [(A, 14, 4), (B, 3, 1), (C, 0, 2)],  # guesses, a decode and a prompt
    [(C, 1, 8), (A, 18, 1)],  # a rewind in a long frame
    [(C, 9, 1), (A, 19, 1), (B, 4, 1)],  # three decodes in a graph for 4
]


TWO_LAYERS = ("llama2", "mistral")
"""What one layer hands to the next does not depend on the family: two with both kinds of attention
show it, and the others have one layer, which takes half the time.
"""


@pytest.fixture(autouse=True)
def _few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_frames, "GRAPH_ROWS", GRAPHS)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            with torch.inference_mode(mode=False):
                save_tiny(family, made[family])
        return made[family]

    return make


class Pair:
    """The reference and the fused path on the same weights, each with pages of its own."""

    def __init__(self, folder: Path, stage: Stage, device: torch.device) -> None:
        self.spec: ModelSpec = open_model(str(folder)).spec
        self.slice_: Slice = load_slice(
            folder, self.spec, stage, WeightForm(torch.float32, device), lambda _done, _total: None
        ).slice
        sizes = (self.spec, len(stage.layers), PAGES, torch.float32, device)
        self.plain_pages, self.fused_pages = KvPages(*sizes), KvPages(*sizes)
        self.device = device
        self.frames = CudaFrames(self.slice_, self.fused_pages, TOKENS_MAX)

    def plain(self, x: Tensor, segments: list[PagedSegment]) -> Tensor:
        batch = PackedBatch.build(segments, self.device)
        hidden: Tensor = self.slice_(x.to(self.device), batch, self.plain_pages)
        return hidden

    def fused(
        self, x: Tensor, segments: list[PagedSegment], asked: dict[int, SampleRow] | None = None
    ) -> Tensor:
        watch = Stopwatch(clock=ManualClock(), cuda=self.device.type == "cuda")
        out = self.frames.compute(x, segments, asked or {}, watch).out
        watch.wait()
        return out


def feed(frame: list[Fed]) -> tuple[list[PagedSegment], int]:
    segments = [PagedSegment(*each) for each in frame]
    return segments, sum(each.tokens for each in segments)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_the_hidden_states_of_the_reference(
    folder: Callable[[str], Path], family: str, device: torch.device
) -> None:
    layers = 2 if family in TWO_LAYERS else 1
    pair = Pair(folder(family), cut((layers, LAYERS - layers))[0], device)
    random = torch.Generator().manual_seed(1)
    for frame in BUSY:
        segments, tokens = feed(frame)
        ids = torch.randint(VOCAB, (tokens,), generator=random, dtype=torch.int32)

        got, want = pair.fused(ids, segments), pair.plain(ids, segments).cpu()

        torch.testing.assert_close(got, want, atol=ATOL, rtol=0)
    # Padded rows and rewinds included, both wrote the same keys and values to the same slots.
    torch.testing.assert_close(
        pair.fused_pages.keys_LPKH, pair.plain_pages.keys_LPKH, atol=ATOL, rtol=0
    )
    torch.testing.assert_close(
        pair.fused_pages.values_LPKH, pair.plain_pages.values_LPKH, atol=ATOL, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize(("family", "told"), [("llama2", 0), ("qwen3", 4), ("tied", 0)])
def test_the_last_stage_chooses_the_tokens_of_the_reference(
    folder: Callable[[str], Path], family: str, told: int, device: torch.device
) -> None:
    pair = Pair(folder(family), cut((3, 1))[1], device)
    hot = Sampling(
        temperature=1.5, top_k=40, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.5,
        presence_penalty=0.3, logit_bias=((4, 1.0),), seed=7,
    )  # fmt: skip
    random = torch.Generator().manual_seed(2)
    for frame in BUSY:
        segments, tokens = feed(frame)
        hidden = torch.randn((tokens, pair.spec.hidden), generator=random)
        rows = [sum(each.tokens for each in segments[: i + 1]) - 1 for i in range(len(segments))]
        asked = {row: SampleRow(hot, row, [3, 5], [6, 6]) for row in rows}
        asked[rows[0]] = SampleRow(Sampling(top_logprobs=told), 0, ())

        got = pair.fused(hidden, segments, asked)

        logits = pair.slice_.logits(pair.plain(hidden, segments)[rows])
        want = choose(logits, list(asked.values()))
        assert got[:, 0].tolist() == [each.token for each in want]
        assert got[:, 1].tolist() == pytest.approx([each.logprob for each in want], abs=ATOL)
        [first, *_] = choices(got, list(asked.values()))
        assert [token for token, _ in first.top] == [token for token, _ in want[0].top]
        assert [p for _, p in first.top] == pytest.approx([p for _, p in want[0].top], abs=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("told_row", [1, 11], ids=["first", "last"])
def test_more_rows_than_a_graph_has_get_the_tokens_of_the_reference(
    folder: Callable[[str], Path], told_row: int, device: torch.device
) -> None:
    pair = Pair(folder("llama2"), cut((3, 1))[1], device)
    hidden = torch.randn((12, pair.spec.hidden), generator=torch.Generator().manual_seed(5))
    asked = {row: SampleRow(Sampling(temperature=row % 2, seed=row), row, ()) for row in range(12)}
    asked[told_row] = SampleRow(Sampling(top_logprobs=3), told_row, ())
    segments = [PagedSegment(A, 0, 12)]

    got = choices(pair.fused(hidden, segments, asked), list(asked.values()))

    want = choose(pair.slice_.logits(pair.plain(hidden, segments)), list(asked.values()))
    assert [each.token for each in got] == [each.token for each in want]
    assert [each.logprob for each in got] == pytest.approx([p.logprob for p in want], abs=ATOL)
    assert [len(each.top) for each in got] == [3 * (row == told_row) for row in range(12)]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama2", "tied"])
def test_the_last_stage_scores_a_prompt_in_a_graph_and_without(
    folder: Callable[[str], Path], family: str, device: torch.device
) -> None:
    pair = Pair(folder(family), cut((3, 1))[1], device)
    random = torch.Generator().manual_seed(4)
    for frame in BUSY:
        segments, tokens = feed(frame)
        hidden = torch.randn((tokens, pair.spec.hidden), generator=random)
        rows = [ScoreRow(row, 7 * row % VOCAB, row % 3) for row in range(tokens)]
        asked = {tokens - 1: SampleRow(Sampling(), tokens, ())}
        watch = Stopwatch(clock=ManualClock(), cuda=device.type == "cuda")

        out, got = pair.frames.compute(hidden, segments, asked, watch, rows)
        watch.wait()

        plain = pair.plain(hidden, segments)
        want = score(pair.slice_, plain, rows)
        assert got is not None
        assert got[:, :2].tolist() == want[:, :2].tolist(), "rank and token"
        torch.testing.assert_close(got[:, 2].cpu(), want[:, 2].cpu(), atol=ATOL, rtol=0)
        told = [each.top for each in scores(got, rows)]
        assert [len(each) for each in told] == [row % 3 for row in range(tokens)]
        assert out.shape == (1, 2)


@pytest.mark.slow
def test_the_middle_of_a_prompt_asks_for_no_token(
    folder: Callable[[str], Path], device: torch.device
) -> None:
    pair = Pair(folder("llama2"), cut((3, 1))[1], device)
    hidden = torch.ones((12, pair.spec.hidden))

    assert pair.fused(hidden, [PagedSegment(A, 0, 12)]).shape == (0, 2)
    assert pair.fused(hidden[:5], [PagedSegment(A, 12, 5)]).shape == (0, 2)


@pytest.mark.slow
def test_what_a_graph_computed_before_does_not_reach_the_next_frame(
    folder: Callable[[str], Path], device: torch.device
) -> None:
    """Its rows of padding hold what the last frame left there."""
    stage = cut((3, 1))[1]
    pair, other = (Pair(folder("llama2"), stage, device) for _ in range(2))
    asked = {0: SampleRow(Sampling(), 1, ())}
    loud = torch.full((7, pair.spec.hidden), torch.nan)
    quiet = torch.randn((1, pair.spec.hidden), generator=torch.Generator().manual_seed(3))
    pair.fused(loud, [PagedSegment((page,), 0, 1) for page in range(7)])

    got = pair.fused(
        torch.cat([quiet] * 5), [PagedSegment((page,), 0, 1) for page in range(10, 15)], asked
    )

    want = other.fused(quiet, [PagedSegment((3,), 0, 1)], asked)
    torch.testing.assert_close(got, want, atol=ATOL, rtol=0)


@pytest.mark.slow
def test_a_frame_takes_the_smallest_graph_that_holds_it(
    folder: Callable[[str], Path], device: torch.device
) -> None:
    pair, replayed = Pair(folder("llama2"), cut((3, 1))[1], device), list[int]()
    for rows, recorded in pair.frames._recorded.items():
        spy = partial(_noted, replayed, rows, recorded.replay)
        pair.frames._recorded[rows] = replace(recorded, replay=spy)

    for tokens in (1, 2, 3, 4, 9):
        pair.fused(torch.ones((tokens, pair.spec.hidden)), [PagedSegment(A, 0, tokens)])

    assert replayed == [1, 2, 4, 4]  # and none that has room for nine


def _noted(replayed: list[int], rows: int, replay: Callable[[], Computed]) -> Computed:
    replayed.append(rows)
    return replay()


def test_graphs_are_no_larger_than_frames_can_be() -> None:
    assert graph_rows(1) == (1,)
    assert graph_rows(3) == (1, 2, 4)
    assert graph_rows(320) == GRAPHS
