"""A stage that computes nothing, and takes as long as a card that is not here: a paced simulation.

It is for what lies around the computing. Wire, scheduler, gateway and probe meet a real cluster's
cadence on any machine: its queues, its silence between two frames, its prompts that take longer
than its tokens. It is no measurement of the card, and tells nothing of the model: hidden states are
zeros, a token follows from the request's seed and the position alone (and from its mask, where it
has one, which alone may let it end the text). The prompt is not looked at, and no weights are
opened.

Whoever shows a figure that came of it says so: `Device.simulation` is the label, and travels with
the worker's description.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgeserve.clock import Clock
from edgeserve.families.folder import ModelSource, told_model
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.stage import Stage
from edgeserve.frames.stage_time import StageTime
from edgeserve.hugging_face.find import open_fetched
from edgeserve.wire.frame import Frame, FrameResult, Sampled, Scored
from edgeserve.wire.messages import Loaded, LoadOrder
from edgeserve.worker.cards import Card
from edgeserve.worker.device import Device
from edgeserve.worker.sequences import OpenSequence, SequenceTable
from edgeserve.worker.stage import Taken, as_ordered


@dataclass(kw_only=True)
class PacedStage:
    """In the place of a `ResidentStage`. One device: a frame begins when the one before is done."""

    source: ModelSource
    order: LoadOrder
    loaded: Loaded
    card: Card
    _busy_until_s: float = 0.0

    def holds(self, order: LoadOrder, model: str) -> bool:
        source, held = _opened(order, model), self.order
        same_order = replace(order, epoch=held.epoch, model=held.model) == held
        same_model = (source.reference, source.spec) == (self.source.reference, self.source.spec)
        return same_order and same_model

    def new_table(self) -> SequenceTable:
        return SequenceTable.of(self.source.spec, self.order)

    def any_thread_may_launch(self, _frame: Frame, _table: SequenceTable) -> bool:
        return True

    def launch(
        self,
        frame: Frame,
        sequences: Sequence[OpenSequence],
        clock: Clock,
        *,
        sleeps: bool = True,  # noqa: ARG002  # what waits for a clock always does
    ) -> LaunchedPaced:
        now_s = clock.now_s()
        spec, order = self.source.spec, self.order
        scored = sum(len(each.tokens) for each in frame.scores.values())
        work = frame_work(spec, order.stage, order.dtype, frame.segments, scored)
        start_s = max(now_s, self._busy_until_s)
        takes_s = self.card.takes_s(work.read_bytes, work.flop, order.dtype)
        self._busy_until_s = start_s + takes_s
        return LaunchedPaced(
            frame=frame.frame,
            start_s=start_s,
            takes_s=takes_s,
            sampled=self._sampled(frame, sequences) if order.stage.head else (),
            scored=_scored(frame) if order.stage.head else (),
            payload_bytes=0
            if order.stage.head
            else frame.tokens * spec.hidden_bytes_per_token(order.dtype),
        )

    def _sampled(self, frame: Frame, sequences: Sequence[OpenSequence]) -> tuple[Sampled, ...]:
        return tuple(
            Sampled(
                sequence=segment.sequence,
                token=made_up_token(
                    self.source,
                    sequence.sampling.seed,
                    position,
                    frame.masks.get(segment.sequence, b""),
                ),
                logprob=0.0,
            )
            for segment, sequence in zip(frame.segments, sequences, strict=True)
            for position in segment.sampled_positions
        )


@dataclass(frozen=True, kw_only=True)
class LaunchedPaced:
    """A frame that the device would have now, or has behind others."""

    frame: int
    start_s: float
    takes_s: float
    sampled: tuple[Sampled, ...]
    scored: tuple[Scored, ...]
    payload_bytes: int

    def finish(self, taken: Taken, clock: Clock) -> FrameResult:
        """Waits until the card would be done. What the waiting overshot is booked as a copy, and so
        stands in the receipt as `other`, where it belongs to neither card nor wire.
        """
        end_s = self.start_s + self.takes_s
        clock.sleep_until(end_s)
        time = StageTime(
            queue_s=taken.waited_s + self.start_s - taken.started_s,
            decode_s=taken.decode_s,
            compute_s=self.takes_s,
            copy_out_s=clock.now_s() - end_s,
        )
        payload = bytes(self.payload_bytes)
        return FrameResult(
            frame=self.frame, time=time, sampled=self.sampled, payload=payload, scored=self.scored
        )


def _scored(frame: Frame) -> tuple[Scored, ...]:
    """As certain as what is made up."""
    return tuple(
        Scored(segment.sequence, token, logprob=0.0, rank=1)
        for segment in frame.segments
        if segment.sequence in frame.scores
        for token in frame.scores[segment.sequence].tokens
    )


@dataclass(frozen=True)
class Work:
    """What one frame asks of one stage's device."""

    read_bytes: int
    flop: int


def frame_work(
    spec: ModelSpec, stage: Stage, dtype: Dtype, segments: Sequence[Segment], scored: int = 0
) -> Work:
    """Weights are read once for a frame, the head only if it samples or scores; keys and values
    once for each segment. A parameter is a product and a sum for every token, and attention two of
    each for every number of a query and every key that it sees.
    """
    layers = len(stage.layers)
    layer_parameters = layers * spec.layer_parameters
    tokens = sum(each.tokens for each in segments)
    head_rows = scored + sum(each.samples for each in segments) if stage.head else 0
    head_parameters = spec.head_parameters if head_rows else 0
    kv_tokens = sum(_keys_read(spec, each) for each in segments)
    seen = sum(_keys_seen(spec, each) for each in segments)
    return Work(
        read_bytes=(layer_parameters + head_parameters) * dtype.size_bytes
        + kv_tokens * spec.kv_bytes_per_token(layers, dtype),
        flop=2 * layer_parameters * tokens
        + 2 * head_parameters * head_rows
        + 4 * spec.q_rows * layers * seen,
    )


def made_up_token(source: ModelSource, seed: int, position: int, allowed: bytes = b"") -> int:
    """The same after a replay and in any batch. Any that a mask allows; without one from the second
    quarter of the vocabulary: bytes and special tokens stand at its ends.
    """
    first, count = source.spec.vocab // 4, max(1, source.spec.vocab // 4)
    drawn = zlib.crc32(b"%d %d" % (seed, position))
    if allowed:
        bits = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little")
        ids = np.flatnonzero(bits[: source.spec.vocab])
        return int(ids[drawn % len(ids)])
    candidates = (first + (drawn + step) % count for step in range(count))
    return next((each for each in candidates if each not in source.eos_ids), first)


def load_paced(
    order: LoadOrder,
    model: str,
    device: Device,
    on_progress: Callable[[int, int], None],
    clock: Clock,
) -> PacedStage:
    """`load_stage` for a worker that is paced: it opens the configuration, and is done.

    Raises BadModel, and WireError for another model than the gateway's.
    """
    assert device.card is not None
    start_s = clock.now_s()
    source = as_ordered(_opened(order, model), order)
    slice_bytes = source.spec.stage_parameters(order.stage) * order.dtype.size_bytes
    on_progress(slice_bytes, slice_bytes)
    loaded = Loaded(
        spec_hash=order.spec_hash,
        # No hash of tensors looks like it: a stage that computes is never taken for this one.
        slice_hash=f"paced-{device.card.name}-{order.spec_hash}",
        stage=order.stage,
        dtype=order.dtype,
        pages=order.pages,
        slice_bytes=slice_bytes,
        random_weights=source.random_weights,
        load_s=clock.now_s() - start_s,
    )
    return PacedStage(source=source, order=order, loaded=loaded, card=device.card)


def _opened(order: LoadOrder, model: str) -> ModelSource:
    """By the gateway's config.json where the folder that it names is not here: no weights are
    needed. What this worker was given by itself has to be here, as for any other.
    """
    path = Path(model)
    is_told = order.config and model == order.model and path.is_absolute() and not path.is_dir()
    return told_model(model, order.config) if is_told else open_fetched(model)


def _keys_read(spec: ModelSpec, segment: Segment) -> int:
    """The first of a segment's tokens sees a window, and each that follows one key more."""
    if spec.window_tokens is None:
        return segment.end_position
    return min(segment.end_position, spec.window_tokens + segment.tokens - 1)


def _keys_seen(spec: ModelSpec, segment: Segment) -> int:
    """Summed over the segment's tokens: each sees itself and what is before it."""
    window = spec.window_tokens or spec.context_tokens
    positions = range(segment.first_position, segment.end_position)
    return sum(min(position + 1, window) for position in positions)
