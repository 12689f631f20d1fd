"""A stage of a model on a GPU that is not there: loaded, recorded, and ready for frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from edgeserve.clock import ManualClock
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.cuda_linear import cuda_preparation
from edgeserve.model.pages import KvPages
from edgeserve.model.product import Preparation
from edgeserve.model.sampling import SampleRow
from edgeserve.model.scoring import Results, ScoreRow
from edgeserve.model.slice import Slice
from edgeserve.model.weights import Filling, WeightForm
from edgeserve.worker.cuda_frames import CudaFrames, Processors, graph_rows
from edgeserve.worker.stage import TORCH_DTYPES
from edgeserve.worker.stopwatch import Stopwatch
from tests.cuda.events import Event, Phase
from tests.cuda.launches import kernels_noted
from tests.cuda.meta_device import META, MetaDevice

RTX_3060 = Processors(count=28, shared_bytes=100 * 1024)
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a worker is told to load, and what its card is."""

    spec: ModelSpec
    stage: Stage
    dtype: Dtype
    pages: int = 550
    frame_tokens_max: int = 320
    processors: Processors = RTX_3060


@dataclass(kw_only=True)
class MetaRecorder:
    """A stand-in for `GraphRecorder`: does the work twice, as that does, and replays nothing."""

    device: MetaDevice
    graphs: int
    """How many there will be."""
    recordings: list[list[Event]] = field(default_factory=list)

    def record(self, work: Callable[[], Result]) -> Callable[[], Result]:
        with self.device.during(Phase.WARM_UP):
            work()
        with self.device.during(Phase.GRAPH):
            start = len(self.device.events)
            results = work()
            self.recordings.append(self.device.events[start:])
        if len(self.recordings) == self.graphs:
            self.device.phase = Phase.LONGEST
        return lambda: results


@dataclass(frozen=True, kw_only=True)
class MetaStage:
    """Loaded, with all that happened until then in `device.events`."""

    load: Load
    device: MetaDevice
    slice_: Slice
    kv_pages: KvPages
    frames: CudaFrames
    recordings: dict[int, list[Event]]
    """What each graph holds, by its rows; the largest was recorded first."""

    def compute(
        self,
        segments: Sequence[PagedSegment],
        asked: Mapping[int, SampleRow],
        scored: Sequence[ScoreRow] = (),
    ) -> list[Event]:
        """What happens in a frame."""
        start = len(self.device.events)
        watch = Stopwatch(clock=ManualClock(), cuda=False)
        with noted(self.device, self.load):
            self._compute(segments, asked, scored, watch)
        return self.device.events[start:]

    def _compute(
        self,
        segments: Sequence[PagedSegment],
        asked: Mapping[int, SampleRow],
        scored: Sequence[ScoreRow],
        watch: Stopwatch,
    ) -> Results:
        x = _input(self.load, sum(each.tokens for each in segments))
        return self.frames.compute(x, segments, asked, watch, scored)


def load_and_record(load: Load, prepare: Preparation | None = None) -> MetaStage:
    """`prepare` takes the place of what a GPU's worker does to linear layers."""
    device = MetaDevice()
    filling = empty_slice(load, prepare)
    with noted(device, load):
        slice_ = _filled(filling)
        device.phase = Phase.PAGES
        layers, dtype = len(load.stage.layers), TORCH_DTYPES[load.dtype]
        kv_pages = KvPages(load.spec, layers, load.pages, dtype, META)
        device.phase = Phase.INPUTS
        rows = graph_rows(load.frame_tokens_max)
        recorder = MetaRecorder(device=device, graphs=len(rows))
        frames = CudaFrames(
            slice_, kv_pages, load.frame_tokens_max,
            recorder=recorder, processors=load.processors,
        )  # fmt: skip
        device.phase = Phase.FRAME
    recordings = dict(zip(reversed(rows), recorder.recordings, strict=True))
    return MetaStage(
        load=load, device=device, slice_=slice_, kv_pages=kv_pages,
        frames=frames, recordings=recordings,
    )  # fmt: skip


def whole(spec: ModelSpec, layers: int) -> Stage:
    """The first layers of a model, with everything around them."""
    return Stage(LayerRange(0, min(layers, spec.layers)), embedding=True, head=True)


@contextmanager
def noted(device: MetaDevice, load: Load) -> Iterator[None]:
    with torch.inference_mode(), device, kernels_noted(device, TORCH_DTYPES[load.dtype]):
        yield


def empty_slice(load: Load, prepare: Preparation | None = None) -> Filling:
    """A slice that no memory was taken for."""
    prepare = prepare or cuda_preparation(load.dtype, load.processors.count)
    quantised = str(load.dtype) if load.dtype.is_quantised else ""
    form = WeightForm(TORCH_DTYPES[load.dtype], META, prepare, quantised)
    return Filling(load.spec, load.stage, form)


def _filled(filling: Filling) -> Slice:
    """As `weights.fill` does it: a tensor's memory is taken when its first rows come, and a linear
    layer is prepared when its last have come.
    """
    for source in filling.sources:
        filling.rows(source).zero_()
        filling.filled(source)
    return filling.slice


def _input(load: Load, tokens: int) -> Tensor:
    if load.stage.embedding:
        return torch.zeros(tokens, dtype=torch.int32)
    return torch.zeros((tokens, load.spec.hidden), dtype=TORCH_DTYPES[load.dtype])
