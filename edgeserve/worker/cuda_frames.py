"""How a GPU computes frames: short ones by replaying a CUDA graph, long ones kernel by kernel; both
with the same fused code, and without ever waiting for the device.

A graph has a fixed number of rows; a frame takes the smallest that has enough, and the rows left
over write nothing and are read by nobody. Any mixture of sequences fits any graph: one decoded
token each, several guessed ones, or the end of a prompt. All is recorded at load: a stage that says
it is loaded answers its first frame as fast as its thousandth, and what does not fit or compile is
found before there is a request.

One stream does everything, in order. Copies on a second one would hide 0.2 ms (256 tokens of a 13B
model over PCIe 3) behind 180 ms of computing, and would cost each decoded token an event.

Refuses to know bytes, clocks and sequences. Imported only where there is a GPU: it needs Triton.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from edgeserve.cost.reserve import GRAPH_ROWS
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.frames.sampling import Sampling
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import (
    DECODE_QUERIES,
    Extent,
    pages_each,
    parts_for,
    parts_wanted,
    prompt_queries,
    stages_for,
    tile_queries,
    tiles_of,
)
from edgeserve.model.fused import Computed, Outputs, choose, compute
from edgeserve.model.pages import KvPages
from edgeserve.model.sampling import SampleRow, most_likely, sample
from edgeserve.model.scoring import Results, ScoreRow, score
from edgeserve.model.slice import Slice
from edgeserve.worker.frame_input import FrameInput, InputRow
from edgeserve.worker.graphs import GraphRecorder, NoRecorder
from edgeserve.worker.stopwatch import Stopwatch

DRAWN = SampleRow(
    Sampling(
        temperature=1.0, top_k=1, top_p=0.5, min_p=0.5, repetition_penalty=2.0,
        presence_penalty=1.0, logit_bias=((0, 1.0),), top_logprobs=1,
    ),
    position=1, prompt=(0,), generated=(0,), allowed=b"\x01",
)  # fmt: skip
"""All that a row can want, whatever the vocabulary."""
GREEDY = SampleRow(Sampling(), position=1, prompt=())

Result = TypeVar("Result")


class Recorder(Protocol):
    def record(self, work: Callable[[], Result]) -> Callable[[], Result]: ...


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """A graph, and the place that it reads."""

    input: FrameInput
    replay: Callable[[], Computed]


@dataclass(frozen=True, kw_only=True)
class Processors:
    """A device's streaming multiprocessors."""

    count: int
    shared_bytes: int
    """Shared memory of each."""


class CudaFrames:
    """Used by one thread, frame after frame. The pages' device is a GPU; or, in tests, a CPU whose
    Triton interprets, or one without numbers, which needs a recorder of its own.
    """

    def __init__(
        self,
        slice_: Slice,
        kv_pages: KvPages,
        frame_tokens_max: int,
        *,
        recorder: Recorder | None = None,
        processors: Processors | None = None,
    ) -> None:
        """`recorder` and `processors` are the device's, unless given."""
        self._slice, self._kv_pages = slice_, kv_pages
        self._device = kv_pages.keys_LPKH.device
        self._is_pinned = self._device.type != "cpu"
        self._processors = _processors(self._device) if processors is None else processors
        self._width = pages_each(slice_.spec.context_tokens, kv_pages.pages)
        self._dtype = kv_pages.keys_LPKH.dtype
        self._row = _input_row(slice_, self._dtype)
        recorder = recorder or _recorder(self._device)
        self._outputs = Outputs.empty(slice_, kv_pages, graph_rows(frame_tokens_max)[-1])
        # The largest first: what is recorded next fits into the memory that it left.
        self._recorded = {
            rows: self._record(rows, recorder) for rows in reversed(graph_rows(frame_tokens_max))
        }
        self._warm_up(frame_tokens_max)  # last: recording gives back all memory that is free

    @property
    def graphs(self) -> int:
        return len(self._recorded)

    def is_recorded(self, tokens: int) -> bool:
        """Whether a frame of so many is one graph."""
        return tokens <= max(self._recorded)

    def compute(
        self,
        x: Tensor,
        segments: Sequence[PagedSegment],
        asked: Mapping[int, SampleRow],
        watch: Stopwatch,
        scored: Sequence[ScoreRow] = (),
    ) -> Results:
        """Starts a frame, and returns where its results will be on the host once the device is past
        the last mark: hidden states [T, D]; or on the last stage the next tokens of the rows that
        are asked for. What is scored is computed behind a graph, from the hidden states it leaves.
        """
        placed, run = self._place(segments, len(asked))
        filled = self._filled(x, segments, list(asked), placed.table.extent)
        # From here on on the device, which must not wait for Python's filling of the table.
        watch.mark()
        placed.copy_in(filled, len(x))
        watch.mark()
        computed = run()
        if computed.logits_NV is None:
            out = computed.out[: len(x)]
        else:
            out = self._chosen(computed, placed.table.asked_N, list(asked.values()))
        scores_MP = score(self._slice, computed.hidden_TD, scored) if scored else None
        watch.mark()
        results = Results(
            out=self._to_host(out),
            scores_MP=None if scores_MP is None else self._to_host(scores_MP),
        )
        watch.mark()
        return results

    def _chosen(self, computed: Computed, asked_N: Tensor, rows: Sequence[SampleRow]) -> Tensor:
        """What the rows get. Logits of more rows than a graph has are computed in turn and in the
        same place: those of a long frame of guesses would be larger than all else it needs.
        """
        most, found = self._outputs.rows, list[Tensor]()
        for start in range(0, max(1, len(rows)), most):
            some = rows[start : start + most]
            if start:
                asked_B = asked_N[start : start + most]
                computed = choose(self._slice, computed.hidden_TD, asked_B, self._outputs)
            assert computed.logits_NV is not None, "who chooses has the head"
            found.append(sample(computed.out[: len(some)], computed.logits_NV, some))
        return found[0] if len(found) == 1 else _joined(found)

    def _place(
        self, segments: Sequence[PagedSegment], asked: int
    ) -> tuple[FrameInput, Callable[[], Computed]]:
        """Where a frame's input is to be on the device, and what then computes it."""
        tokens = sum(each.tokens for each in segments)
        rows = min((rows for rows in self._recorded if rows >= tokens), default=None)
        if rows is not None:
            return self._recorded[rows].input, self._recorded[rows].replay
        placed = FrameInput.empty(self._long(segments, asked), self._row, self._device)
        return placed, lambda: self._compute(placed)

    def _filled(
        self, x: Tensor, segments: Sequence[PagedSegment], asked: Sequence[int], extent: Extent
    ) -> FrameInput:
        """On the host; pinned, or a copy from it would wait for the device."""
        filled = FrameInput.empty(extent, self._row, "cpu", pinned=self._is_pinned)
        tile_tokens = extent.tile_queries // self._slice.spec.group
        filled.table.fill(segments, asked, tiles_of(segments, tile_tokens))
        filled.x[: len(x)].copy_(x)
        return filled

    def _compute(self, placed: FrameInput) -> Computed:
        return compute(self._slice, placed.x, placed.table, self._kv_pages, self._outputs)

    def _to_host(self, x: Tensor) -> Tensor:
        return self._host_like(x).copy_(x, non_blocking=True)

    def _host_like(self, x: Tensor) -> Tensor:
        """Pinned, or a copy would wait for the device. PyTorch keeps such memory and hands it out
        again when the copies that used it are done: that is the ring of staging buffers.
        """
        return torch.empty(x.shape, dtype=x.dtype, pin_memory=self._is_pinned)

    def _long(self, segments: Sequence[PagedSegment], asked: int) -> Extent:
        """For a frame that no graph holds: as large as it is. It has tiles enough without cutting
        the keys of a sequence into parts.
        """
        spec = self._slice.spec
        queries = tile_queries(spec.group, prompt_queries(spec.head_dim, self._dtype))
        return Extent(
            rows=sum(each.tokens for each in segments),
            asked=asked,
            tiles=sum(-(-each.tokens // (queries // spec.group)) for each in segments),
            tile_queries=queries,
            parts=1,
            segments=len(segments),
            pages_each=self._width,
            window_tokens=spec.window_tokens,
        )

    def _short(self, rows: int) -> Extent:
        """For a graph. A tile has a token at least, so there are never more tiles than rows."""
        spec, processors = self._slice.spec, self._processors.count
        return Extent(
            rows=rows,
            asked=rows,
            tiles=rows,
            tile_queries=tile_queries(spec.group, DECODE_QUERIES),
            parts=parts_for(rows, spec.kv_heads, processors),
            parts_wanted=parts_wanted(spec.kv_heads, processors),
            segments=rows,
            pages_each=self._width,
            window_tokens=spec.window_tokens,
            stages=stages_for(self._processors.shared_bytes, spec.head_dim, self._dtype),
        )

    def _record(self, rows: int, recorder: Recorder) -> _Recorded:
        blank = self._blank(self._short(rows))
        return _Recorded(input=blank, replay=recorder.record(lambda: self._compute(blank)))

    def _warm_up(self, frame_tokens_max: int) -> None:
        """What no graph holds: the longest frame, of padding, and all that draws and scores tokens.
        Kernels are compiled, or brought to the device, and their memory is there.
        """
        if frame_tokens_max > GRAPH_ROWS[-1]:
            segment = PagedSegment((0,) * -(-frame_tokens_max // PAGE_TOKENS), 0, frame_tokens_max)
            blank = self._blank(self._long([segment], GRAPH_ROWS[-1]))
            self._compute(blank)
        if self._outputs.logits_RV is not None:
            self._warm_up_choices(self._outputs.logits_RV.zero_())

    def _warm_up_choices(self, logits_RV: Tensor) -> None:
        for rows in ((DRAWN,), (DRAWN, GREEDY, DRAWN)):  # one alone, and some apart
            some = rows[: len(logits_RV)]
            sample(most_likely(logits_RV[: len(some)]), logits_RV, some)
        score(self._slice, self._outputs.hidden_RD.zero_(), [ScoreRow(0, 0, 1)])

    def _blank(self, extent: Extent) -> FrameInput:
        blank = FrameInput.empty(extent, self._row, self._device)
        blank.clear()
        return blank


def graph_rows(frame_tokens_max: int) -> tuple[int, ...]:
    """The sizes that frames of so many tokens need."""
    pairs = itertools.pairwise((0, *GRAPH_ROWS))
    return tuple(rows for smaller, rows in pairs if smaller < frame_tokens_max)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """One below the other, as wide as the widest: some may tell other tokens, too."""
    rows, width = sum(map(len, parts)), max(each.shape[1] for each in parts)
    joined, start = parts[0].new_zeros((rows, width)), 0
    for each in parts:
        joined[start : start + len(each), : each.shape[1]] = each
        start += len(each)
    return joined


def _input_row(slice_: Slice, dtype: torch.dtype) -> InputRow:
    """Of the first stage, or of any other."""
    if slice_.embedding is not None:
        return InputRow(shape=(), dtype=torch.int32)
    return InputRow(shape=(slice_.spec.hidden,), dtype=dtype)


def _recorder(device: torch.device) -> Recorder:
    return GraphRecorder(device) if device.type == "cuda" else NoRecorder()


def _processors(device: torch.device) -> Processors:
    if device.type != "cuda":
        return Processors(count=1, shared_bytes=0)
    found = torch.cuda.get_device_properties(device)
    return Processors(
        count=found.multi_processor_count, shared_bytes=found.shared_memory_per_multiprocessor
    )
