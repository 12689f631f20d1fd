"""Decides what runs next. Never runs it.

The scheduler is a plain object: events go in, actions come out. It opens no socket, awaits nothing
and never looks at a clock (events carry the time), so the gateway drives it with real stages and a
test with a list.

Continuous batching: a request joins at any step and leaves at its own end. Admission reserves pages
for the worst case, so an accepted request always finishes. Prompts run in chunks that share frames
with decodes, and their chunks follow one another through the stages without waiting for answers; a
decode depends on its last token and waits for it. What would break it: results out of order (a page
may be given away while a frame that writes to it is under way, because every stage sees frames in
the order in which they were ordered).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from edgeserve.errors import EdgeserveError, Overloaded, Unprocessable
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.schedule.events import (
    Action,
    Admit,
    Arrived,
    Cancelled,
    Event,
    Fail,
    Finish,
    FrameDone,
    FrameFailed,
    Reject,
    Send,
    StageBack,
    StageLost,
    Ticked,
)
from edgeserve.schedule.micro_batch import MicroBatch, Opening, Segment
from edgeserve.schedule.pages import PagePool


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the cluster has and what the operator allows."""

    stages: int
    pages: int
    context_tokens: int
    micro_batches: int = 1
    """Groups of decoding sequences, each with at most one frame in flight."""
    max_running: int = 64
    max_waiting: int = 128
    prefill_chunk: int = 256
    """Prompt tokens in one frame."""
    queue_timeout_s: float = 120.0

    @property
    def frame_tokens_max(self) -> int:
        """No frame holds more: a chunk, and one token of each running sequence."""
        return self.prefill_chunk + self.max_running

    @property
    def frames_max(self) -> int:
        """In flight at once. More than one a stage would only queue there."""
        return max(self.stages, self.micro_batches)


@dataclass(frozen=True, kw_only=True)
class Statistics:
    running: int
    waiting: int
    pages_in_use: int
    frames_in_flight: int


@dataclass(kw_only=True)
class _Sequence:
    arrived: Arrived
    pages: tuple[int, ...] = ()
    admitted_s: float = 0.0
    ordered_tokens: int = 0
    """Prompt tokens that are in a frame or were."""
    generated: int = 0
    group: int | None = None
    """Set once the prompt is through: whose frames its decodes ride in."""

    @property
    def pages_needed(self) -> int:
        """For the worst case: the prompt and every token it may generate."""
        tokens = self.arrived.prompt_tokens + self.arrived.max_new_tokens
        return math.ceil(tokens / PAGE_TOKENS)

    @property
    def prompt_left(self) -> int:
        return self.arrived.prompt_tokens - self.ordered_tokens


class Scheduler:
    """`handle` an event, carry out the actions it returns in their order."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pool = PagePool(limits.pages)
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[int, _Sequence] = {}
        self._in_flight: dict[int, MicroBatch] = {}
        self._busy_groups: dict[int, int] = {}  # group -> the frame that holds its decodes
        self._unopened: set[int] = set()
        self._to_close: list[int] = []
        self._next_frame = 1
        self._lost: EdgeserveError | None = None
        self._service_s = 1.0  # how long a request has lately taken from admission to end

    def handle(self, event: Event) -> list[Action]:
        match event:
            case Arrived():
                actions = self._arrived(event)
            case FrameDone():
                actions = self._frame_done(event)
            case FrameFailed():
                actions = self._frame_failed(event)
            case Cancelled():
                actions = self._cancelled(event)
            case StageLost():
                actions = self._stage_lost(event)
            case StageBack():
                self._lost = None
                actions = []
            case Ticked():
                actions = self._ticked(event)
        return actions + self._admissions(event.at_s) + self._frames()

    def statistics(self) -> Statistics:
        return Statistics(
            running=len(self._running),
            waiting=len(self._waiting),
            pages_in_use=self._pool.in_use,
            frames_in_flight=len(self._in_flight),
        )

    # -- events

    def _arrived(self, event: Arrived) -> list[Action]:
        sequence = _Sequence(arrived=event)
        error = self._lost or self._never_fits(sequence) or self._queue_full()
        if error is not None:
            return [Reject(sequence=event.sequence, error=error)]
        self._waiting.append(sequence)
        return []

    def _frame_done(self, event: FrameDone) -> list[Action]:
        finished: list[Action] = []
        for segment in self._landed(event.frame):
            sequence = self._running.get(segment.sequence)
            if sequence is None or not segment.sample:  # cancelled meanwhile, or mid-prompt
                continue
            finished += self._token(sequence, segment.sequence in event.stopped, event.at_s)
        return finished

    def _frame_failed(self, event: FrameFailed) -> list[Action]:
        """Stages behind the one that refused never heard whom to close; twice does no harm."""
        if event.frame in self._in_flight:
            self._to_close += self._in_flight[event.frame].close
        failed = {segment.sequence for segment in self._landed(event.frame)} & self._running.keys()
        for number in failed:
            self._forget(self._running[number])
        return [Fail(sequence=number, error=event.error) for number in sorted(failed)]

    def _landed(self, frame: int) -> tuple[Segment, ...]:
        """What the frame held; nothing, if its pipeline was lost meanwhile."""
        micro_batch = self._in_flight.pop(frame, None)
        self._busy_groups = {g: f for g, f in self._busy_groups.items() if f != frame}
        return micro_batch.segments if micro_batch else ()

    def _token(self, sequence: _Sequence, stopped: bool, at_s: float) -> list[Action]:
        sequence.generated += 1
        if not stopped and sequence.generated < sequence.arrived.max_new_tokens:
            if sequence.group is None:
                sequence.group = self._emptiest_group()
            return []
        self._forget(sequence)
        self._service_s += 0.2 * (at_s - sequence.admitted_s - self._service_s)
        reason = "eos_token" if stopped else "length"
        return [Finish(sequence=sequence.arrived.sequence, reason=reason)]

    def _cancelled(self, event: Cancelled) -> list[Action]:
        running = self._running.get(event.sequence)
        if running is not None:
            self._forget(running)
        self._waiting = deque(s for s in self._waiting if s.arrived.sequence != event.sequence)
        return []

    def _stage_lost(self, event: StageLost) -> list[Action]:
        self._lost = event.error
        ended: list[Action] = [Fail(sequence=s, error=event.error) for s in self._running]
        ended += [Reject(sequence=s.arrived.sequence, error=event.error) for s in self._waiting]
        for sequence in list(self._running.values()):
            self._forget(sequence)
        self._waiting.clear()
        self._in_flight.clear()
        self._busy_groups.clear()
        return ended

    def _ticked(self, event: Ticked) -> list[Action]:
        """Waiting is in order of arrival, so those that waited too long stand in front."""
        rejected: list[Action] = []
        limit_s = self.limits.queue_timeout_s
        while self._waiting and event.at_s - self._waiting[0].arrived.at_s > limit_s:
            sequence = self._waiting.popleft()
            error = self._overloaded(f"the request waited {limit_s:g} s for its turn")
            rejected.append(Reject(sequence=sequence.arrived.sequence, error=error))
        return rejected

    # -- admission

    def _never_fits(self, sequence: _Sequence) -> Unprocessable | None:
        """Told by the tighter limit, so that to follow the advice is enough."""
        prompt, new = sequence.arrived.prompt_tokens, sequence.arrived.max_new_tokens
        context, kv_tokens = self.limits.context_tokens, self.limits.pages * PAGE_TOKENS
        excess = prompt + new - min(context, kv_tokens)
        if excess <= 0:
            return None
        why = (
            f"this model reads at most {context}"
            if context <= kv_tokens
            else f"the cluster's pages hold {kv_tokens} in all"
        )
        return Unprocessable(
            f"the prompt has {prompt} tokens and max_new_tokens is {new}, but {why}; shorten them "
            f"by {excess} tokens",
            prompt_tokens=prompt, max_new_tokens=new, context_tokens=context, kv_tokens=kv_tokens,
        )  # fmt: skip

    def _queue_full(self) -> Overloaded | None:
        """Only what would have to wait is refused."""
        if len(self._waiting) < self.limits.max_waiting:
            return None
        return self._overloaded(f"{len(self._waiting)} requests wait already")

    def _overloaded(self, why: str) -> Overloaded:
        running, waiting = len(self._running), len(self._waiting)
        retry_after_s = max(1, math.ceil(self._service_s * (waiting + 1) / max(1, running)))
        return Overloaded(
            f"{why}; {running} are running and hold {self._pool.in_use} of {self._pool.total} "
            "pages; "
            f"try again in {retry_after_s} s",
            retry_after_s=retry_after_s, running=running, waiting=waiting,
            pages_in_use=self._pool.in_use, pages_total=self._pool.total,
        )  # fmt: skip

    def _admissions(self, now_s: float) -> list[Action]:
        """In order of arrival: a big request is never overtaken for ever."""
        admitted: list[Action] = []
        while self._waiting and len(self._running) < self.limits.max_running:
            sequence = self._waiting[0]
            pages = self._pool.reserve(sequence.pages_needed)
            if pages is None:
                break
            self._waiting.popleft()
            sequence.pages, sequence.admitted_s = pages, now_s
            number = sequence.arrived.sequence
            self._running[number] = sequence
            self._unopened.add(number)
            admitted.append(Admit(sequence=number, queued_s=now_s - sequence.arrived.at_s))
        return admitted

    def _forget(self, sequence: _Sequence) -> None:
        number = sequence.arrived.sequence
        del self._running[number]
        self._pool.release(sequence.pages)
        if number in self._unopened:
            self._unopened.discard(number)
        else:
            self._to_close.append(number)

    # -- frames

    def _frames(self) -> list[Action]:
        ordered: list[Action] = []
        while self._lost is None and len(self._in_flight) < self.limits.frames_max:
            group = self._idle_group()
            segments = self._decodes(group) + self._chunks()
            if not segments:
                break
            micro_batch = self._compose(segments)
            if group is not None:
                self._busy_groups[group] = micro_batch.frame
            ordered.append(Send(micro_batch=micro_batch))
        return ordered

    def _idle_group(self) -> int | None:
        """The first group that has decodes and none in flight."""
        groups = {s.group for s in self._running.values() if s.group is not None}
        return min(groups - self._busy_groups.keys(), default=None)

    def _decodes(self, group: int | None) -> list[Segment]:
        if group is None:
            return []
        return [_decode(sequence) for sequence in self._running.values() if sequence.group == group]

    def _chunks(self) -> list[Segment]:
        """Prompt tokens, in order of admission, up to the chunk."""
        room, chunks = self.limits.prefill_chunk, []
        for sequence in self._running.values():
            if room == 0:
                break
            if sequence.prompt_left:
                chunks.append(_chunk(sequence, min(room, sequence.prompt_left)))
                room -= chunks[-1].tokens
        return chunks

    def _compose(self, segments: list[Segment]) -> MicroBatch:
        opened = [s.sequence for s in segments if s.sequence in self._unopened]
        micro_batch = MicroBatch(
            frame=self._next_frame,
            close=tuple(self._to_close),
            open=tuple(Opening(sequence=s, pages=self._running[s].pages) for s in opened),
            segments=tuple(segments),
        )
        self._next_frame += 1
        self._to_close = []
        self._unopened.difference_update(opened)
        self._in_flight[micro_batch.frame] = micro_batch
        return micro_batch

    def _emptiest_group(self) -> int:
        sizes = [0] * self.limits.micro_batches
        for sequence in self._running.values():
            if sequence.group is not None:
                sizes[sequence.group] += 1
        return sizes.index(min(sizes))


def _decode(sequence: _Sequence) -> Segment:
    """The newest token, whose keys and values no stage has yet."""
    arrived = sequence.arrived
    position = arrived.prompt_tokens + sequence.generated - 1
    return Segment(sequence=arrived.sequence, first_position=position, tokens=1, sample=True)


def _chunk(sequence: _Sequence, tokens: int) -> Segment:
    first = sequence.ordered_tokens
    sequence.ordered_tokens += tokens
    return Segment(
        sequence=sequence.arrived.sequence,
        first_position=first,
        tokens=tokens,
        sample=sequence.prompt_left == 0,
    )
