"""Puts tokens into frames: decodes in micro-batches, prompts in chunks beside them.

A decode depends on its last token and waits for it; the chunks of a prompt follow one another
through the stages without waiting for answers. How many micro-batches there are and how much of a
prompt may ride with decodes is learned from the frames that come back. Knows no pages but those it
passes on, and decides about nobody's admission or end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from edgeserve.frames.micro_batch import MicroBatch, Opening, Segment
from edgeserve.schedule.events import FrameDone
from edgeserve.schedule.grouping import Grouping, cycle_s
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.prompt_share import PromptShare
from edgeserve.schedule.sequence import Sequence
from edgeserve.schedule.step_times import StepTimes


@dataclass(kw_only=True)
class _Flight:
    micro_batch: MicroBatch
    decodes: int
    """Sequences that decode in it."""
    decoded_tokens: int
    """Theirs, drafts included."""
    prompt_tokens: int
    had_full_share: bool
    """As many prompt tokens as were allowed beside decodes."""
    ordered_s: float
    disturbed: bool
    """Prompts rode with it or beside it."""


class Frames:
    """`begin` a sequence, call `decode` when it has a new token and `end` when it is over; `order`
    whatever can be sent.
    """

    def __init__(self, limits: Limits) -> None:
        self.times = StepTimes()
        self.grouping = Grouping(limits.micro_batches, limits.processors, limits.stages)
        self.share = PromptShare(
            frames=limits.frames_max,
            chunk_max=limits.prefill_chunk,
            slowdown_max=limits.decode_slowdown,
        )
        self._limits = limits
        self._prompts: dict[int, Sequence] = {}  # those that have prompt tokens to order
        self._decoding: dict[int, Sequence] = {}
        self._ready: dict[int, Sequence] = {}  # decoding, and in no frame; the longest first
        self._in_flight: dict[int, _Flight] = {}
        self._unopened: dict[int, Sequence] = {}  # no stage has heard of them yet
        self._to_close: list[int] = []
        self._next_frame = 1

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    # -- sequences

    def begin(self, sequence: Sequence) -> None:
        self._prompts[sequence.number] = sequence
        self._unopened[sequence.number] = sequence

    def decode(self, sequence: Sequence) -> None:
        self._decoding[sequence.number] = self._ready[sequence.number] = sequence

    def end(self, sequence: Sequence) -> None:
        number = sequence.number
        for where in (self._prompts, self._decoding, self._ready):
            where.pop(number, None)
        if self._unopened.pop(number, None) is None:
            self._to_close.append(number)

    # -- frames

    def landed(self, event: FrameDone) -> tuple[Segment, ...]:
        """What the frame held; nothing, if its pipeline was lost meanwhile."""
        flight = self._in_flight.pop(event.frame, None)
        if flight is None:
            return ()
        if event.compute_s and flight.decodes:
            self._learn(flight, event)
        return flight.micro_batch.segments

    def refused(self, frame: int) -> tuple[Segment, ...]:
        """Stages behind the one that refused never heard whom to close; twice does no harm."""
        flight = self._in_flight.pop(frame, None)
        if flight is None:
            return ()
        self._to_close += flight.micro_batch.close
        return flight.micro_batch.segments

    def drop_all(self) -> None:
        """Nothing that is under way will come back."""
        self._in_flight.clear()

    def order(self, now_s: float) -> list[MicroBatch]:
        ordered: list[MicroBatch] = []
        while self._has_place():
            decodes = self._decodes()
            left = self._limits.frame_tokens_max - sum(each.tokens for each in decodes)
            room = min(self._room(bool(decodes)), left)
            chunks = self._chunks(room)
            if not decodes and not chunks:
                break
            micro_batch = self._compose([*decodes, *chunks])
            self._take_off(micro_batch, decodes, room, now_s)
            ordered.append(micro_batch)
        return ordered

    def _has_place(self) -> bool:
        if len(self._in_flight) < self._limits.frames_max:
            return True
        if self._decoding or len(self._in_flight) >= self._limits.prompt_frames_max:
            return False
        left = sum(each.prompt_left for each in self._prompts.values())
        return left >= self._limits.prefill_chunk

    def _decodes(self) -> list[Segment]:
        """Those that have waited longest."""
        count = self._micro_batch_size()
        riders = [sequence for sequence, _ in zip(self._ready.values(), range(count), strict=False)]
        for each in riders:
            del self._ready[each.number]
        return list(self._with_drafts(riders))

    def _micro_batch_size(self) -> int:
        """Equal ones, or one larger as often as the division leaves a rest."""
        busy = [flight.decodes for flight in self._in_flight.values() if flight.decodes]
        groups = self.grouping.micro_batches
        if len(busy) >= groups:
            return 0
        size, rest = divmod(len(self._decoding), groups)
        return size + (sum(decodes > size for decodes in busy) < rest)

    def _with_drafts(self, riders: list[Sequence]) -> Iterable[Segment]:
        """Each with an equal part of the drafts that are worth their time."""
        count = len(riders)
        wanted = count + sum(each.drafts for each in riders)
        left = self.times.worth(count, min(wanted, self._limits.frame_tokens_max)) - count
        for riders_left, each in zip(range(count, 0, -1), riders, strict=True):
            drafts = min(each.drafts, math.ceil(left / riders_left))
            left -= drafts
            yield each.next_decode(drafts)

    def _room(self, carries_decodes: bool) -> int:
        if not self._decoding:
            return self._limits.prefill_chunk
        return self.share.chunk(carries_decodes)

    def _chunks(self, room: int) -> list[Segment]:
        """Prompt tokens, in order of admission."""
        chunks = []
        for sequence in list(self._prompts.values()):
            if room <= 0:
                break
            chunks.append(sequence.next_chunk(min(room, sequence.prompt_left)))
            room -= chunks[-1].tokens
            if not sequence.prompt_left:
                del self._prompts[sequence.number]
        return chunks

    def _compose(self, segments: list[Segment]) -> MicroBatch:
        new = [self._unopened.pop(s.sequence, None) for s in segments]
        micro_batch = MicroBatch(
            frame=self._next_frame,
            close=tuple(self._to_close),
            open=tuple(Opening(sequence=s.number, pages=s.pages) for s in new if s is not None),
            segments=tuple(segments),
        )
        self._next_frame += 1
        self._to_close = []
        return micro_batch

    # -- learning

    def _take_off(
        self, micro_batch: MicroBatch, decodes: list[Segment], room: int, now_s: float
    ) -> None:
        decoded_tokens = sum(each.tokens for each in decodes)
        prompt_tokens = micro_batch.tokens - decoded_tokens
        others = self._in_flight.values()
        if prompt_tokens:
            for each in others:
                each.disturbed = True
        self._in_flight[micro_batch.frame] = _Flight(
            micro_batch=micro_batch,
            decodes=len(decodes),
            decoded_tokens=decoded_tokens,
            prompt_tokens=prompt_tokens,
            had_full_share=prompt_tokens == room,
            ordered_s=now_s,
            disturbed=prompt_tokens > 0 or any(each.prompt_tokens for each in others),
        )

    def _learn(self, flight: _Flight, event: FrameDone) -> None:
        """A quiet step teaches how long steps take, a disturbed one what prompts cost."""
        if not flight.disturbed:
            self.times.learn(flight.decoded_tokens, event.compute_s, event.hops_s)
            self.grouping.step(len(self._decoding), self.times)
            return
        groups, processors = self.grouping.micro_batches, self._limits.processors
        quiet_s = cycle_s(groups * flight.decoded_tokens, groups, processors, self.times)
        if quiet_s:
            slowdown = (event.at_s - flight.ordered_s) / quiet_s
            self.share.learn(slowdown, flight.had_full_share)
