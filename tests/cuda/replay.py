"""What a stage takes of a GPU's memory: recorded on tensors without numbers, and replayed in the
model of PyTorch's allocator with as many layers and pages as a plan has.

Two layers are recorded. All are alike, and what one takes while it computes is free again when the
next one begins: so the weights of the second stand for those of all others, and the graphs of two
layers take what the graphs of all take.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.batch import PagedSegment
from edgeserve.model.frame_table import pages_each
from edgeserve.model.sampling import SampleRow
from edgeserve.model.scoring import ScoreRow
from edgeserve.worker.cuda_frames import Processors
from tests.cuda.allocator import DEFAULT_POOL, Block, CachingAllocator
from tests.cuda.events import Allocated, Event, Freed, Operator, Phase
from tests.cuda.meta_device import MetaDevice
from tests.cuda.recording import RTX_3060, Load, MetaStage, empty_slice, load_and_record, noted

LAYERS = 2
WHOLE_LAYERS = 2
"""Whose loading is replayed with all that it takes for a moment; others find that in the cache."""
DRAWN_ROWS = 70
"""More than are chosen at a time, and many times as many as are drawn at a time."""
DRAWN = SampleRow(
    Sampling(
        temperature=1.0, top_k=50, top_p=0.9, min_p=0.1, repetition_penalty=1.1,
        presence_penalty=0.5, frequency_penalty=0.5, logit_bias=((3, -1.0),),
        top_logprobs=5, seed=1,
    ),
    position=9, prompt=(1, 2), generated=(3,), allowed=b"\xff",
)  # fmt: skip
"""All that a row can want."""
RADIX_BYTES = 2**18
PRODUCTS = frozenset(("mm", "addmm"))


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What loading does, piece by piece."""

    embedding: Sequence[Event]
    first: Sequence[Event]
    """The first layer."""
    layer: Sequence[Event]
    """Each further one."""
    kept: Sequence[Event]
    """The same without what it gives back at once."""
    head: Sequence[Event]
    """And what loading itself gives back."""


def record_weights(spec: ModelSpec, dtype: Dtype, *, head: bool) -> Weights:
    """With a head more memory is taken from the start: for the largest matrix that comes."""
    stage = Stage(LayerRange(0, LAYERS), embedding=True, head=head)
    load, device = _load(spec, stage, dtype, 0), MetaDevice()
    filling, ends = empty_slice(load), dict[str, int]()
    with noted(device, load):
        for source in filling.sources:
            filling.rows(source).zero_()
            filling.filled(source)
            ends[source.target.partition("layers.")[2][:1] or source.target] = len(device.events)
        slice_ = filling.slice
        del filling, source
    events, embedded = device.events[:], ends["embedding.weight"]
    del slice_  # only now: its weights stay
    return Weights(
        embedding=_of_memory(events[:embedded]),
        first=_of_memory(events[embedded : ends["0"]]),
        layer=_of_memory(events[ends["0"] : ends["1"]]),
        kept=_kept(events[ends["0"] : ends["1"]]),
        head=_of_memory(events[ends["1"] :]),
    )


def record_frames(
    spec: ModelSpec, stage: Stage, dtype: Dtype, tokens: int, processors: Processors = RTX_3060
) -> list[Event]:
    """All that happens behind the pages: graphs, the longest frame of `tokens`, and frames of each
    kind that takes memory of its own.
    """
    load = replace(_load(spec, stage, dtype, tokens), processors=processors)
    recorded = load_and_record(load)
    _serve(recorded, tokens)
    frames = [e for e in recorded.device.events if e.phase not in (Phase.LOAD, Phase.PAGES)]
    return _of_memory(frames)


def _of_memory(events: Iterable[Event]) -> list[Event]:
    """Those that change what is taken."""
    return [
        each
        for each in events
        if isinstance(each, Allocated | Freed)
        or (isinstance(each, Operator) and (each.name in PRODUCTS or each.name in INSIDE))
    ]


def _kept(events: Sequence[Event]) -> list[Event]:
    freed = {each.storage for each in events if isinstance(each, Freed)}
    return [e for e in events if isinstance(e, Allocated) and e.storage not in freed]


def _load(spec: ModelSpec, stage: Stage, dtype: Dtype, tokens: int) -> Load:
    return Load(
        spec=replace(spec, layers=LAYERS),
        stage=Stage(LayerRange(0, LAYERS), embedding=stage.embedding, head=stage.head),
        dtype=dtype,
        pages=pages_each(spec.context_tokens, 10**9),
        frame_tokens_max=tokens,
    )


def _serve(stage: MetaStage, tokens: int) -> None:
    """Long frames of which tokens are drawn, and all are scored."""
    pages = tuple(range(-(-tokens // PAGE_TOKENS)))
    segment = PagedSegment(pages, 0, tokens)
    if not stage.load.stage.head:
        stage.compute([segment], {})
        return
    rows = range(tokens)  # all of them, as a frame of guesses has it
    drawn = dict.fromkeys(rows[:DRAWN_ROWS], DRAWN)
    likely = {row: SampleRow(Sampling(), row, ()) for row in rows[DRAWN_ROWS:]}
    stage.compute([segment], {**drawn, **likely})
    stage.compute([segment], {}, [ScoreRow(row, 5, 3) for row in range(tokens)])


def _logsumexp(call: Operator) -> list[int]:
    """The exponentials (`logsumexp_out_impl` in aten/src/ATen/native/ReduceOps.cpp)."""
    return [_bytes(call)]


def _sort(call: Operator) -> list[int]:
    """Of fp32, along its last dimension (aten/src/ATen/native/cuda/SortStable.cu). One row: the
    places that it begins with, of 8 bytes. Several, which are sorted all together and then by their
    rows: places and rows twice, and the numbers. And what cub::DeviceRadixSort::SortPairs takes:
    all that it sorts once more, and counts of digits.
    """
    size, several = _bytes(call), math.prod(call.inputs[0].shape[:-1]) > 1
    return [*([2 * size, 2 * size, size] if several else [2 * size]), 3 * size + RADIX_BYTES]


def _bytes(call: Operator) -> int:
    [first, *_] = call.inputs
    size = first.dtype.itemsize
    for each in first.shape:
        size *= each
    return size


INSIDE = {"logsumexp": _logsumexp, "sort.stable": _sort, "sort": _sort}
"""What operators take of a GPU while they run, and give back."""


def replay(
    stage: Stage, weights: Weights, pages_bytes: int, frames: Sequence[Event], memory: Replay
) -> None:
    """Loads and serves a stage. Raises OutOfMemory."""
    memory.play([*(weights.embedding if stage.embedding else []), *weights.first])
    for number in range(1, len(stage.layers)):
        memory.play(weights.layer if number <= WHOLE_LAYERS else weights.kept)
    memory.play(weights.head)
    memory.allocator.empty_cache()  # as `load_stage` does
    for _ in ("keys", "values"):
        memory.allocator.allocate(pages_bytes // 2)
    memory.play(frames)


@dataclass(kw_only=True)
class Replay:
    """Plays events in an allocator."""

    allocator: CachingAllocator
    workspace_bytes: int
    _held: dict[tuple[int, int], Block | None] = field(default_factory=dict)
    _phase: Phase = Phase.LOAD
    _round: int = 0

    def play(self, events: Iterable[Event]) -> None:
        self._round += 1
        for each in events:
            if each.phase is not self._phase:
                self._enter(each.phase)
            if isinstance(each, Allocated):
                self._held[self._round, each.storage] = self.allocator.allocate(each.bytes)
            elif isinstance(each, Freed):
                self._free(each.storage)
            elif isinstance(each, Operator):
                self._call(each)

    def _free(self, storage: int) -> None:
        """Of this piece of the events, or of the first: what loading holds to its end."""
        for key in ((self._round, storage), (1, storage)):
            if key in self._held:
                self.allocator.free(self._held.pop(key))
                return

    def _enter(self, phase: Phase) -> None:
        """`torch.cuda.graph` gives back what is cached before it records."""
        if phase is Phase.GRAPH:
            self.allocator.empty_cache()
        is_graph = phase is Phase.GRAPH
        self.allocator.stream = int(phase in (Phase.WARM_UP, Phase.GRAPH))
        self.allocator.pool = "graphs" if is_graph else DEFAULT_POOL
        self.allocator.capturing = is_graph
        self._phase = phase

    def _call(self, call: Operator) -> None:
        if call.name in PRODUCTS:
            self.allocator.workspace("the device's thread", self.workspace_bytes)
        if call.name in INSIDE:
            taken = [self.allocator.allocate(size) for size in INSIDE[call.name](call)]
            for each in taken:
                self.allocator.free(each)
