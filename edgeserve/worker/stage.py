"""A slice with its pages, ready to compute frames: bytes to tensors, tensors to bytes, and the time
of each step.
"""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from edgeserve.clock import Clock, ProcessorTime
from edgeserve.errors import DoesNotFit, WireError
from edgeserve.families.folder import ModelSource, told_model, weight_files
from edgeserve.families.head import own_head
from edgeserve.families.spec import Dtype
from edgeserve.families.stage_files import FoundTensor
from edgeserve.frames.stage_time import StageTime
from edgeserve.hugging_face.find import open_fetched
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.packed import FastestLayout
from edgeserve.model.pages import KvPages
from edgeserve.model.product import LeavePlain, Preparation
from edgeserve.model.quantised import Quantise
from edgeserve.model.sampling import SampleRow, choices, most_likely, sample
from edgeserve.model.scoring import Results, ScoreRow, score, scores
from edgeserve.model.slice import Slice
from edgeserve.model.weights import (
    LoadedSlice,
    WeightForm,
    load_found,
    load_slice,
    random_slice,
    slice_hash,
)
from edgeserve.wire.frame import Frame, FrameResult, Sampled, Scored
from edgeserve.wire.messages import Loaded, LoadOrder
from edgeserve.worker.device import Device
from edgeserve.worker.device_faults import is_out_of_memory, release_memory
from edgeserve.worker.room import check_room
from edgeserve.worker.sequences import OpenSequence, SequenceTable
from edgeserve.worker.stopwatch import Stopwatch

if TYPE_CHECKING:
    from edgeserve.worker.cuda_frames import CudaFrames

log = logging.getLogger(__name__)

# Frames are read where they lie, in bytes that Python holds to be constant. Nothing here writes to
# them.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

TORCH_DTYPES = {
    Dtype.FP32: torch.float32,
    Dtype.BF16: torch.bfloat16,
    Dtype.FP16: torch.float16,
    Dtype.INT8: torch.bfloat16,
    Dtype.INT4: torch.bfloat16,
}
"""Of keys, values and hidden states, and of weights that are not quantised."""


@dataclass(frozen=True, kw_only=True)
class ResidentStage:
    """What `load_stage` made. Frames are computed on one thread, in order."""

    source: ModelSource
    order: LoadOrder
    loaded: Loaded
    device: Device
    slice_: Slice
    kv_pages: KvPages
    cuda_frames: CudaFrames | None = None
    """What computes frames on a GPU; a CPU runs the slice as it is."""

    def holds(self, order: LoadOrder, model: str) -> bool:
        """Whether `order` for `model` asks for exactly this, from files that are still the same;
        from the gateway's, if it said what they are.
        """
        asked = (order.spec_hash, order.stage, order.dtype, order.pages, order.frame_tokens_max)
        here = self.order
        held = (here.spec_hash, here.stage, here.dtype, here.pages, here.frame_tokens_max)
        if asked != held or order.weights_hash != here.weights_hash:
            return False
        if order.weights_hash:
            return True
        source = open_fetched(model)
        if self.source.reference != source.reference:
            return False
        if source.folder is None:
            return True
        form = _form(order.dtype, self.device, LeavePlain())
        now = slice_hash(source.folder, as_ordered(source, order).spec, order.stage, form)
        return now == self.loaded.slice_hash

    def new_table(self) -> SequenceTable:
        return SequenceTable.of(self.source.spec, self.order)

    def any_thread_may_launch(self, frame: Frame, table: SequenceTable) -> bool:
        """Whether the device's thread has nothing that another one lacks. On a GPU that is so for
        copies and one recorded graph; see `device_thread`.
        """
        if self.cuda_frames is None:
            return True
        is_recorded = self.cuda_frames.is_recorded(frame.tokens)
        return is_recorded and not frame.scores and table.all_most_likely(frame)

    def launch(
        self,
        frame: Frame,
        sequences: Sequence[OpenSequence],
        clock: Clock,
        *,
        sleeps: bool = False,
    ) -> Launched:
        """Starts a frame on the device. A CPU has finished it on return, a GPU may not have; then
        who waits for it `sleeps`, or spins.
        """
        watch = Stopwatch(clock=clock, cuda=self.cuda_frames is not None, sleeps=sleeps)
        segments = [
            PagedSegment(each.pages, segment.first_position, segment.tokens)
            for each, segment in zip(sequences, frame.segments, strict=True)
        ]
        is_last = self.order.stage.head
        asked = _asked(frame, sequences) if is_last else []
        prompted = _prompted(frame) if is_last else []
        samples = {each.row: each.sample for each in asked}
        compute = self.cuda_frames.compute if self.cuda_frames else self._compute
        results = compute(
            self._tensor(frame), segments, samples, watch, [each.score for each in prompted]
        )
        return Launched(
            frame=frame.frame,
            watch=watch,
            results=results,
            asked=asked if is_last else None,
            prompted=prompted,
        )

    def _compute(
        self,
        x: Tensor,
        segments: Sequence[PagedSegment],
        asked: Mapping[int, SampleRow],
        watch: Stopwatch,
        scored: Sequence[ScoreRow],
    ) -> Results:
        """What `CudaFrames.compute` does on a GPU, by the reference path."""
        watch.mark()
        batch = PackedBatch.build(segments, self.device.torch_device)
        watch.mark()
        hidden_TD: Tensor = self.slice_(x, batch, self.kv_pages)
        results = Results(
            out=self._tokens(hidden_TD, asked) if self.order.stage.head else hidden_TD,
            scores_MP=score(self.slice_, hidden_TD, scored) if scored else None,
        )
        watch.mark()
        watch.mark()  # nothing to copy out
        return results

    def _tokens(self, hidden_TD: Tensor, asked: Mapping[int, SampleRow]) -> Tensor:
        if not asked:
            return hidden_TD.new_empty((0, 2))
        logits_NV = self.slice_.logits(hidden_TD[list(asked)])
        return sample(most_likely(logits_NV), logits_NV, list(asked.values()))

    def _tensor(self, frame: Frame) -> Tensor:
        """The payload as it lies, without a copy: torch only reads it."""
        buffer = memoryview(frame.payload)
        if self.order.stage.embedding:
            largest, vocab = max(buffer.cast("I")), self.source.spec.vocab
            if largest >= vocab:
                raise WireError(
                    f"frame {frame.frame} has token id {largest}; the vocabulary has {vocab}"
                )
            return torch.frombuffer(buffer, dtype=torch.int32)
        flat = torch.frombuffer(buffer, dtype=TORCH_DTYPES[self.order.dtype])
        return flat.view(frame.tokens, self.source.spec.hidden)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row of the frame whose next token is wanted."""

    row: int
    number: int
    """Of its sequence."""
    sequence: OpenSequence
    sample: SampleRow


def _asked(frame: Frame, sequences: Sequence[OpenSequence]) -> list[Asked]:
    """The last `samples` rows of each segment."""
    ends = itertools.accumulate(segment.tokens for segment in frame.segments)
    return [
        Asked(
            row=end - segment.end_position + position - 1,
            number=segment.sequence,
            sequence=sequence,
            sample=SampleRow(
                sequence.sampling,
                position,
                sequence.prompt,
                sequence.generated,
                frame.masks.get(segment.sequence, b""),
            ),
        )
        for segment, sequence, end in zip(frame.segments, sequences, ends, strict=True)
        for position in segment.sampled_positions
    ]


@dataclass(frozen=True, kw_only=True)
class Prompted:
    """A token of a prompt whose log-probability is wanted."""

    number: int
    """Of its sequence."""
    score: ScoreRow


def _prompted(frame: Frame) -> list[Prompted]:
    if not frame.scores:
        return []
    ends = itertools.accumulate(segment.tokens for segment in frame.segments)
    return [
        Prompted(
            number=segment.sequence,
            score=ScoreRow(end - segment.end_position + position - 1, token, wanted.top_logprobs),
        )
        for segment, end in zip(frame.segments, ends, strict=True)
        if (wanted := frame.scores.get(segment.sequence)) is not None
        for position, token in enumerate(wanted.tokens, wanted.first_position)
    ]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A frame's way to the device, on the worker's clock."""

    received_s: float
    decode_s: float
    """Until then it was turned from bytes into a frame."""
    started_s: float
    """When its turn came."""

    @property
    def waited_s(self) -> float:
        return self.started_s - self.received_s - self.decode_s


@dataclass(frozen=True, kw_only=True)
class Launched:
    """A frame that the device has or had."""

    frame: int
    watch: Stopwatch
    results: Results
    """On the host once `watch` is past its last mark."""
    asked: Sequence[Asked] | None
    """Whose tokens they are; None if they are hidden states."""
    prompted: Sequence[Prompted]

    def finish(self, taken: Taken, clock: Clock) -> FrameResult:
        """Waits for the device, and accounts for all time since the frame came in."""
        self.watch.wait()
        start_s = clock.now_s()
        out, scores_MP = self.results
        sampled = () if self.asked is None else _sampled(self.asked, out)
        payload = _bytes(out) if self.asked is None else b""
        scored = () if scores_MP is None else _scored(self.prompted, scores_MP)
        end_s = clock.now_s()
        copy_in_s, compute_s, copy_out_s = self.watch.laps_s()
        # Checking the frame and writing its table: from bytes to what the device reads.
        prepared_s = self.watch.first_mark_s - taken.started_s
        measured_s = prepared_s + copy_in_s + compute_s + copy_out_s + (end_s - start_s)
        rest_s = max(0.0, end_s - taken.started_s - measured_s)
        # What a GPU did besides was the work of other frames. On a CPU the rest is ours: what lies
        # between two readings of the clock.
        is_cuda = self.watch.cuda
        time = StageTime(
            queue_s=taken.waited_s + (rest_s if is_cuda else 0.0),
            decode_s=taken.decode_s + prepared_s + (0.0 if is_cuda else rest_s),
            copy_in_s=copy_in_s,
            compute_s=compute_s,
            copy_out_s=copy_out_s,
            encode_s=end_s - start_s,
        )
        return FrameResult(
            frame=self.frame, time=time, sampled=sampled, payload=payload, scored=scored
        )


def _sampled(asked: Sequence[Asked], tokens_N2P: Tensor) -> tuple[Sampled, ...]:
    """The next tokens; sequences that need their history get them added to it."""
    found = []
    rows = [each.sample for each in asked]
    for each, choice in zip(asked, choices(tokens_N2P, rows), strict=True):
        if each.sequence.sampling.needs_history:
            each.sequence.generated.append(choice.token)
        found.append(
            Sampled(
                sequence=each.number, token=choice.token, logprob=choice.logprob, top=choice.top
            )
        )
    return tuple(found)


def _scored(prompted: Sequence[Prompted], scores_MP: Tensor) -> tuple[Scored, ...]:
    found = scores(scores_MP, [each.score for each in prompted])
    return tuple(
        Scored(each.number, each.score.token, told.logprob, told.rank, told.top)
        for each, told in zip(prompted, found, strict=True)
    )


def load_stage(
    order: LoadOrder,
    model: str,
    device: Device,
    on_progress: Callable[[int, int], None],
    clock: Clock,
    *,
    supplied: Sequence[FoundTensor] = (),
) -> ResidentStage:
    """Reads or makes the slice, and allocates its pages. `supplied` are its tensors if the gateway
    said what they are; without, they are those of the folder `model`.

    Raises BadModel for what is wrong with the files, WireError if they are of another model than
    the gateway's, and DoesNotFit if the device has too little memory.
    """
    start_s = clock.now_s()
    opened = told_model(order.model, order.config) if supplied else open_fetched(model)
    source = as_ordered(opened, order)
    check_room(source.spec, order, device)
    prepare = _preparation(order.dtype, device)
    try:
        form = _form(order.dtype, device, prepare)
        if supplied:
            made = load_found(supplied, source.spec, order.stage, form, on_progress)
        else:
            made = _slice(source, order, form, on_progress)
        if device.kind == "cuda":
            release_memory()  # pages in what loading has left would keep the rest of it from others
        kv_pages = KvPages(
            source.spec, len(order.stage.layers), order.pages,
            TORCH_DTYPES[order.dtype], device.torch_device,
        )  # fmt: skip
        cuda_frames = None
        if device.kind == "cuda":
            cuda_frames = _cuda_frames(made.slice, kv_pages, order.frame_tokens_max, clock)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).partition("\n")[0] or "out of memory"
        raise DoesNotFit(
            f"{order.stage} with {order.pages} pages does not fit this worker's "
            f"{device.memory_bytes} bytes: {said}; lower --memory so that the plan leaves more room"
        ) from None
    log.info("%s: %s", order.stage, prepare.report())
    loaded = Loaded(
        spec_hash=order.spec_hash,
        slice_hash=made.slice_hash,
        stage=order.stage,
        dtype=order.dtype,
        pages=order.pages,
        slice_bytes=source.spec.stage_bytes(order.stage, order.dtype),
        random_weights=source.random_weights,
        load_s=clock.now_s() - start_s,
    )
    return ResidentStage(
        source=source, order=order, loaded=loaded, device=device,
        slice_=made.slice, kv_pages=kv_pages, cuda_frames=cuda_frames,
    )  # fmt: skip


def _preparation(dtype: Dtype, device: Device) -> Preparation:
    if device.kind == "cuda":
        properties = torch.cuda.get_device_properties(device.torch_device)
        return _for_gpu()[0](dtype, properties.multi_processor_count)
    if dtype.is_quantised:
        return Quantise(dtype=dtype)
    return FastestLayout(clock=ProcessorTime()) if device.kind == "cpu" else LeavePlain()


def _form(dtype: Dtype, device: Device, prepare: Preparation) -> WeightForm:
    quantised = str(dtype) if dtype.is_quantised else ""
    return WeightForm(TORCH_DTYPES[dtype], device.torch_device, prepare, quantised)


def _cuda_frames(slice_: Slice, kv_pages: KvPages, tokens_max: int, clock: Clock) -> CudaFrames:
    """Compiles and records all that frames will need; seconds, tens of them the first time on a
    machine.
    """
    start_s = clock.now_s()
    frames = _for_gpu()[1](slice_, kv_pages, tokens_max)
    torch.cuda.synchronize()
    taken_s = clock.now_s() - start_s
    log.info("compiled the kernels and recorded %d CUDA graphs in %.1f s", frames.graphs, taken_s)
    return frames


def _for_gpu() -> tuple[Callable[[Dtype, int], Preparation], type[CudaFrames]]:
    # Here and not above: they import Triton, which PyTorch's CPU builds come without.
    from edgeserve.model.cuda_linear import cuda_preparation
    from edgeserve.worker.cuda_frames import CudaFrames

    return cuda_preparation, CudaFrames


def _slice(
    source: ModelSource, order: LoadOrder, form: WeightForm, on_progress: Callable[[int, int], None]
) -> LoadedSlice:
    if source.folder is None:
        return random_slice(source.spec, order.stage, form, on_progress)
    if source.revision is None:
        weight_files(source.folder)  # a folder of one's own is whole, or says what it lacks
    return load_slice(source.folder, source.spec, order.stage, form, on_progress)


def as_ordered(source: ModelSource, order: LoadOrder) -> ModelSource:
    """The model here, if it is the gateway's.

    Whether a tied head is the embedding is seen in the files, and the gateway may see more of them,
    or fewer: its word counts. A head of its own is then read under its name. To take the embedding
    for a head that differs would be wrong, unless the gateway's tensors are known by their hashes.
    """
    spec = source.spec
    if order.stage.layers.end > spec.layers:
        raise WireError(f"{order.stage} is none of a model of {spec.layers} layers")
    untied, tied = replace(spec, head_tied=False), replace(spec, head_tied=True)
    for each in (spec, untied, *((tied,) if order.weights_hash else ())):
        if each.spec_hash == order.spec_hash:
            return replace(source, spec=each)
    if tied.spec_hash == order.spec_hash:
        if source.folder is not None and not own_head(source.folder, by_content=True):
            return replace(source, spec=tied)
        raise WireError(
            f"the model {source.name!r} here has a head of its own, the gateway's has the "
            'embedding; if config.json is wrong there, set "tie_word_embeddings" to false in it, '
            "or give the gateway the weights, too"
        )
    raise WireError(
        f"the model {source.name!r} here is {spec.family} with {spec.layers} layers "
        f"(spec {spec.spec_hash}), the gateway's is spec {order.spec_hash}; give "
        "both the same folder"
    )


def _bytes(hidden: Tensor) -> bytes:
    """Row by row, little-endian: what `Tensor.numpy().tobytes()` gives, also for bf16, which numpy
    does not know.
    """
    return hidden.contiguous().view(torch.uint8).numpy().tobytes()
