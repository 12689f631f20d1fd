"""A slice with its pages, ready to compute frames: bytes to tensors, tensors to bytes, and the time
of each step.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgeserve.clock import Clock
from edgeserve.errors import DoesNotFit, WireError
from edgeserve.families.folder import ModelSource, open_model
from edgeserve.families.spec import Dtype
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.packed import FastestLayout
from edgeserve.model.pages import KvPages
from edgeserve.model.product import LeavePlain, Preparation
from edgeserve.model.quantised import Quantise
from edgeserve.model.sampling import SampleRow, choose
from edgeserve.model.slice import Slice
from edgeserve.model.weights import Form, LoadedSlice, load_slice, random_slice, slice_hash
from edgeserve.timing.hop import StageTime
from edgeserve.wire.frame import Frame, FrameResult, Sampled
from edgeserve.wire.messages import Loaded, LoadOrder
from edgeserve.worker.device import Device
from edgeserve.worker.sequences import OpenSequence, SequenceTable
from edgeserve.worker.stopwatch import Stopwatch

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

    def holds(self, order: LoadOrder, model: str) -> bool:
        """Whether `order` for `model` asks for exactly this, from files that are still the same."""
        asked = (order.spec_hash, order.stage, order.dtype, order.pages, order.frame_tokens_max)
        here = self.order
        held = (here.spec_hash, here.stage, here.dtype, here.pages, here.frame_tokens_max)
        source = open_model(model)
        if asked != held or self.source.reference != source.reference:
            return False
        if source.folder is None:
            return True
        form = _form(order.dtype, self.device, LeavePlain())
        now = slice_hash(source.folder, source.spec, order.stage, form)
        return now == self.loaded.slice_hash

    def new_table(self) -> SequenceTable:
        return SequenceTable.of(self.source.spec, self.order)

    def launch(self, frame: Frame, sequences: Sequence[OpenSequence], clock: Clock) -> Launched:
        """Starts a frame on the device. A CPU has finished it on return, a GPU may not have."""
        watch = Stopwatch(clock=clock, cuda=self.device.kind == "cuda")
        watch.mark()
        batch = PackedBatch.build(
            [
                PagedSegment(each.pages, segment.first_position, segment.tokens)
                for each, segment in zip(sequences, frame.segments, strict=True)
            ],
            self.device.torch_device,
        )
        x = self._tensor(frame).to(self.device.torch_device, non_blocking=True)
        watch.mark()
        hidden = self.slice_(x, batch, self.kv_pages)
        sampled = self._sample(frame, sequences, hidden) if self.order.stage.head else ()
        watch.mark()
        out = None if self.order.stage.head else self._to_host(hidden)
        watch.mark()
        return Launched(frame=frame.frame, watch=watch, sampled=sampled, hidden=out)

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

    def _sample(
        self, frame: Frame, sequences: Sequence[OpenSequence], hidden_TD: Tensor
    ) -> tuple[Sampled, ...]:
        """The next token after each of the last `samples` tokens of each segment."""
        sampled_rows: list[int] = []
        rows, askers = [], []
        end = 0
        for segment, sequence in zip(frame.segments, sequences, strict=True):
            end += segment.tokens
            sampled_rows += range(end - segment.samples, end)
            for position in segment.sampled_positions:
                rows.append(SampleRow(sequence.sampling, position, sequence.history))
                askers.append((segment.sequence, sequence))
        if not rows:
            return ()
        choices = choose(self.slice_.logits(hidden_TD[sampled_rows]), rows)
        for (_, sequence), choice in zip(askers, choices, strict=True):
            if sequence.sampling.needs_history:
                sequence.history.append(choice.token)
        return tuple(
            Sampled(sequence=number, token=choice.token, logprob=choice.logprob)
            for (number, _), choice in zip(askers, choices, strict=True)
        )

    def _to_host(self, hidden: Tensor) -> Tensor:
        if self.device.kind == "cpu":
            return hidden
        pinned = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True)
        return pinned.copy_(hidden, non_blocking=True)


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
    sampled: tuple[Sampled, ...]
    hidden: Tensor | None

    def finish(self, taken: Taken, clock: Clock) -> FrameResult:
        """Waits for the device, and accounts for all time since the frame came in."""
        self.watch.wait()
        start_s = clock.now_s()
        payload = b"" if self.hidden is None else _bytes(self.hidden)
        end_s = clock.now_s()
        copy_in_s, compute_s, copy_out_s = self.watch.laps_s()
        measured_s = copy_in_s + compute_s + copy_out_s + (end_s - start_s)
        rest_s = max(0.0, end_s - taken.started_s - measured_s)
        # What a GPU did between the marks was the work of other frames. On a CPU the rest is ours:
        # checking the frame, and what lies between two readings of the clock.
        is_cuda = self.watch.cuda
        time = StageTime(
            queue_s=taken.waited_s + (rest_s if is_cuda else 0.0),
            decode_s=taken.decode_s + (0.0 if is_cuda else rest_s),
            copy_in_s=copy_in_s,
            compute_s=compute_s,
            copy_out_s=copy_out_s,
            encode_s=end_s - start_s,
        )
        return FrameResult(frame=self.frame, time=time, sampled=self.sampled, payload=payload)


def load_stage(
    order: LoadOrder,
    model: str,
    device: Device,
    on_progress: Callable[[int, int], None],
    clock: Clock,
) -> ResidentStage:
    """Reads or makes the slice, and allocates its pages.

    Raises BadModel for what is wrong with the files, WireError if they are of another model than
    the gateway's, and DoesNotFit if the device has too little memory.
    """
    start_s = clock.now_s()
    source = open_model(model)
    check_same_model(source, order)
    prepare = _preparation(order.dtype, device, clock)
    try:
        made = _slice(source, order, _form(order.dtype, device, prepare), on_progress)
        kv_pages = KvPages(
            source.spec, len(order.stage.layers), order.pages,
            TORCH_DTYPES[order.dtype], device.torch_device,
        )  # fmt: skip
    except torch.OutOfMemoryError as error:
        raise DoesNotFit(
            f"{order.stage} with {order.pages} pages does not fit this worker's "
            f"{device.memory_bytes} bytes: "
            f"{str(error).splitlines()[0]}; lower --memory so that the plan leaves more room"
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
        slice_=made.slice, kv_pages=kv_pages,
    )  # fmt: skip


def _preparation(dtype: Dtype, device: Device, clock: Clock) -> Preparation:
    if dtype.is_quantised:
        return Quantise(dtype=dtype)
    return FastestLayout(clock=clock) if device.kind == "cpu" else LeavePlain()


def _form(dtype: Dtype, device: Device, prepare: Preparation) -> Form:
    quantised = str(dtype) if dtype.is_quantised else ""
    return Form(TORCH_DTYPES[dtype], device.torch_device, prepare, quantised)


def _slice(
    source: ModelSource, order: LoadOrder, form: Form, on_progress: Callable[[int, int], None]
) -> LoadedSlice:
    if source.folder is None:
        return random_slice(source.spec, order.stage, form, on_progress)
    return load_slice(Path(source.folder), source.spec, order.stage, form, on_progress)


def check_same_model(source: ModelSource, order: LoadOrder) -> None:
    if source.spec.spec_hash != order.spec_hash:
        raise WireError(
            f"the model {source.name!r} here is {source.spec.family} with {source.spec.layers} "
            "layers "
            f"(spec {source.spec.spec_hash}), the gateway's is spec {order.spec_hash}; give "
            "both the same folder"
        )


def _bytes(hidden: Tensor) -> bytes:
    """Row by row, little-endian: what `Tensor.numpy().tobytes()` gives, also for bf16, which numpy
    does not know.
    """
    return hidden.contiguous().view(torch.uint8).numpy().tobytes()
