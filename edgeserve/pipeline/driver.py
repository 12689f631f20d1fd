"""Tells the scheduler what happened, and does what it orders.

Holds what the scheduler need not know: token ids, sampling, ledgers, and who waits for the tokens.
Runs on the pipeline's loop alone, in plain calls that never await, so that no two events
interleave.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from edgeserve.clock import Clock
from edgeserve.errors import DeviceLost, EdgeserveError, StageUnavailable
from edgeserve.frames.micro_batch import MicroBatch, Opening
from edgeserve.pipeline.draft import Drafter
from edgeserve.pipeline.generation import (
    Arrival,
    Ended,
    Generation,
    Order,
    Published,
    ScoredPrompt,
    Token,
)
from edgeserve.pipeline.job import Job, pack_token_ids
from edgeserve.pipeline.relay import Relay, Trip
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
    News,
    Reject,
    Send,
    StageBack,
    StageLost,
    Ticked,
)
from edgeserve.schedule.scheduler import Scheduler
from edgeserve.timing.hop import Lap
from edgeserve.timing.ledger import Ledger, StageLabel
from edgeserve.timing.observer import Observer, Step
from edgeserve.wire.codec import encode_for_last, encode_head
from edgeserve.wire.frame import Failure, Open, Sampled, Score


@dataclass(frozen=True, kw_only=True)
class _UnderWay:
    """A frame that the relay has."""

    micro_batch: MicroBatch
    ordered_s: float
    ready_s: dict[int, float]
    """By sequence."""
    drafts: dict[int, list[int]]
    """Token ids that it tries, by sequence; those that try none are left out."""


class _Rider(NamedTuple):
    """A sequence whose frame came back."""

    job: Job
    ready_s: float
    tokens: int
    """That it had before."""


class Driver:
    """One scheduler and, while all stages are there, one relay. Make it on the pipeline's loop.

    `drafts` is how many tokens to try behind a sequence's newest one: 0 for none, None for as many
    as come true.
    """

    def __init__(  # what it joins
        self,
        scheduler: Scheduler,
        labels: tuple[StageLabel, ...],
        clock: Clock,
        http_loop: asyncio.AbstractEventLoop,
        drafts: int | None = None,
        *,
        published: Published | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.observer = Observer(labels)
        self._drafts = drafts
        self._published = published or Published()
        self._labels = labels
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._http_loop = http_loop
        self._relay: Relay | None = None
        self._jobs: dict[int, Job] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._next_sequence = 1
        self._outgoing: list[tuple[Generation, Arrival]] = []
        self._returned: list[tuple[list[_Rider], Step]] = []
        """What there is to book."""
        self._ended: list[tuple[Ledger, Arrival]] = []
        """What there is to note, behind the last token."""

    # -- what happened

    def arrived(self, order: Order) -> Generation:
        """Raises the error that refuses it."""
        number, self._next_sequence = self._next_sequence, self._next_sequence + 1
        ledger = Ledger(
            labels=self._labels, received_s=order.received_s, prompt_tokens=len(order.prompt)
        )
        generation = Generation(ledger, lambda: self._cancel_from_outside(number))
        job = self._jobs[number] = self._job(order, ledger, generation)
        event = Arrived(
            sequence=number,
            prompt_tokens=len(order.prompt),
            max_new_tokens=order.max_new_tokens,
            page_hashes=job.hashes.extend(job.tokens),
            scored_from=order.scoring.first_position if order.scoring else None,
            at_s=self._clock.now_s(),
        )
        actions = self.scheduler.handle(event)
        refusals = [a.error for a in actions if isinstance(a, Reject) and a.sequence == number]
        if refusals:
            del self._jobs[number]
            self.observer.requests.failed(refusals[0].error_type)
        self._carry_out(actions, event.at_s)
        if refusals:
            raise refusals[0]
        return generation

    def trip_done(self, trip: Trip) -> None:
        """A frame is back from the last stage, or was refused by one."""
        under_way = self._under_way.pop(trip.frame, None)
        if under_way is None:
            return
        now_s = self._clock.now_s()
        if trip.failure is not None:
            error = _from_stage(trip.failure, self._labels[len(trip.hops) - 1])
            self._handle(FrameFailed(frame=trip.frame, error=error, at_s=now_s))
            return
        self._published.last_frame_s = now_s
        self._prompts(trip)
        self._returned.append((self._riders(under_way), _step(under_way, trip, now_s)))
        self._handle(
            FrameDone(
                frame=trip.frame,
                news=self._tokens(under_way, trip, now_s),
                compute_s=tuple(hop.inside.compute_s for hop in trip.hops),
                hops_s=sum(hop.on_the_way_s for hop in trip.hops),
                at_s=now_s,
            )
        )

    def cancelled(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        if job is not None:
            self._handle(Cancelled(sequence=number, at_s=self._clock.now_s()))
            self.observer.requests.ended(job.ledger, job.cancel_reason)

    def ticked(self) -> None:
        self._handle(Ticked(at_s=self._clock.now_s()))

    def stage_lost(self, error: StageUnavailable) -> None:
        self._relay = None
        self._under_way.clear()
        self._handle(StageLost(error=error, at_s=self._clock.now_s()))

    def stages_ready(self, relay: Relay) -> None:
        self._relay = relay
        self._handle(StageBack(at_s=self._clock.now_s()))

    def _job(self, order: Order, ledger: Ledger, generation: Generation) -> Job:
        tokens = list(order.prompt)
        # A penalty depends on the tokens before, which for drafts the last stage does not know, and
        # so does a guide's mask.
        depends = order.sampling.needs_history or order.guide is not None
        can_draft = self._drafts != 0 and order.speculate and not depends
        return Job(
            order=order,
            tokens=tokens,
            ledger=ledger,
            generation=generation,
            drafter=Drafter(tokens, self._drafts) if can_draft else None,
        )

    # -- what is ordered

    def _handle(self, event: Event) -> None:
        self._carry_out(self.scheduler.handle(event), event.at_s)

    def _carry_out(self, actions: list[Action], now_s: float) -> None:
        for action in actions:
            match action:
                case Send(micro_batch=micro_batch):
                    self._send(micro_batch, now_s)
                case Admit():
                    self._admitted(action, now_s)
                case Finish(sequence=number, reason=reason):
                    self._end(number, Ended(reason=reason))
                case Reject(sequence=number, error=error) | Fail(sequence=number, error=error):
                    self._end(number, error)
        # Behind the frames: the HTTP side's thread wants the interpreter, and they go first.
        self._loop.call_soon(self._deliver)

    def _admitted(self, admit: Admit, now_s: float) -> None:
        job = self._jobs[admit.sequence]
        job.ledger.queued_s, job.ledger.cached_tokens = admit.queued_s, admit.cached_tokens
        job.ready_s = now_s

    def _send(self, micro_batch: MicroBatch, now_s: float) -> None:
        assert self._relay is not None, "the scheduler sends nothing while a stage is lost"
        under_way = _UnderWay(micro_batch=micro_batch, ordered_s=now_s, ready_s={}, drafts={})
        token_ids: list[int] = []
        masks: dict[int, bytes] = {}
        scores: dict[int, Score] = {}
        for segment in micro_batch.segments:
            job = self._jobs[segment.sequence]
            token_ids += job.token_ids(segment)
            if segment.samples > 1:
                under_way.drafts[segment.sequence] = job.drafts(segment)
            if mask := job.mask(segment):
                masks[segment.sequence] = mask
            if score := job.score(segment):
                scores[segment.sequence] = score
            under_way.ready_s[segment.sequence] = job.ready_s
            job.ready_s = now_s  # a prompt's next chunk could follow at once
        self._under_way[micro_batch.frame] = under_way
        head = encode_head(micro_batch, [self._open(opening) for opening in micro_batch.open])
        payload, for_last = pack_token_ids(token_ids), encode_for_last(masks, scores)
        self._relay.send(micro_batch.frame, micro_batch.tokens, head, payload, for_last)

    def _open(self, opening: Opening) -> Open:
        order = self._jobs[opening.sequence].order
        return Open(
            sequence=opening.sequence,
            pages=opening.pages,
            sampling=order.sampling,
            history=order.prompt if order.sampling.needs_history else (),
        )

    def _riders(self, under_way: _UnderWay) -> list[_Rider]:
        """The sequences in the frame that are still wanted."""
        return [
            _Rider(self._jobs[number], ready_s, len(self._jobs[number].tokens))
            for number, ready_s in under_way.ready_s.items()
            if number in self._jobs
        ]

    def _prompts(self, trip: Trip) -> None:
        """Hands on what was scored."""
        for number, scored in itertools.groupby(trip.scored, key=lambda each: each.sequence):
            job = self._jobs.get(number)
            if job is not None:  # or else cancelled meanwhile
                tokens = tuple(
                    Token(each.token, each.logprob, each.top, each.rank) for each in scored
                )
                self._outgoing.append((job.generation, ScoredPrompt(tokens)))

    def _tokens(self, under_way: _UnderWay, trip: Trip, now_s: float) -> Mapping[int, News]:
        """Hands on the new tokens."""
        found: dict[int, list[Sampled]] = defaultdict(list)
        for sampled in trip.sampled:
            found[sampled.sequence].append(sampled)
        news = {}
        for number, sequence in found.items():
            job = self._jobs.get(number)
            if job is None:  # cancelled meanwhile
                continue
            try:
                new = job.sampled(sequence, under_way.drafts.get(number, ()), now_s)
            except EdgeserveError as error:
                self._end(number, error)
                self._handle(Cancelled(sequence=number, at_s=now_s))
                continue
            self._outgoing += [(job.generation, token) for token in new]
            news[number] = job.news(len(new))
        return news

    def _end(self, number: int, arrival: Arrival) -> None:
        job = self._jobs.pop(number, None)
        if job is not None:
            self._outgoing.append((job.generation, arrival))
            self._ended.append((job.ledger, arrival))

    def _deliver(self) -> None:
        """To the HTTP side, with one wake-up for all, and booked before."""
        for riders, step in self._returned:
            self._book(riders, step)
            self.observer.step(step)
        for ledger, how in self._ended:
            self._note_end(ledger, how)
        self._returned, self._ended = [], []
        if not self._outgoing or self._http_loop.is_closed():
            return
        self._http_loop.call_soon_threadsafe(_deliver_all, self._outgoing)
        self._outgoing = []

    def _cancel_from_outside(self, number: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.cancelled, number)

    # -- what is remembered

    def _book(self, riders: list[_Rider], step: Step) -> None:
        """For each one lap, and the tokens that it brought; they are remembered for drafts."""
        ordered_s, hops, done_s = step.ordered_s, step.hops, step.done_s
        for job, ready_s, tokens in riders:
            job.ledger.lap(Lap(ready_s=ready_s, ordered_s=ordered_s, hops=hops, done_s=done_s))
            new = len(job.tokens) - tokens
            if new:
                self.observer.requests.lap(job.ledger, new, done_s)
            for _ in range(new):
                job.ledger.token(done_s)
            if job.drafter is not None:
                job.drafter.remember()

    def _note_end(self, ledger: Ledger, how: Arrival) -> None:
        if isinstance(how, Ended):
            self.observer.requests.ended(ledger, how.reason)
        elif isinstance(how, EdgeserveError):
            self.observer.requests.failed(how.error_type)


def _step(under_way: _UnderWay, trip: Trip, done_s: float) -> Step:
    return Step(
        frame=trip.frame,
        tokens=under_way.micro_batch.tokens,
        sequences=len(under_way.micro_batch.segments),
        ordered_s=under_way.ordered_s,
        hops=trip.hops,
        done_s=done_s,
        scored=len(trip.scored),
    )


def _deliver_all(outgoing: list[tuple[Generation, Arrival]]) -> None:
    for generation, arrival in outgoing:
        generation.deliver(arrival)


def _from_stage(failure: Failure, label: StageLabel) -> EdgeserveError:
    """A refusal by a stage, or its last words: its own, and whose they are."""
    is_lost = failure.error_type == DeviceLost.error_type
    how = "is lost" if is_lost else "refused a frame"
    message = f"stage {label.stage} on worker {label.worker} {how}: {failure.message}"
    return StageUnavailable(message, stage=label.stage, worker=label.worker)
