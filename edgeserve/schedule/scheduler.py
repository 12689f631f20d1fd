"""Decides what runs next. Never runs it.

The scheduler is a plain object: events go in, actions come out. It opens no socket, awaits nothing
and never looks at a clock (events carry the time), so the gateway drives it with real stages and a
test with a list.

Continuous batching: a request joins at any step and leaves at its own end. Admission reserves pages
for the worst case, so an accepted request always finishes; pages that hold the beginning of its
prompt already are shared. What goes into which frame is the business of `frames.py`. What would
break it: results out of order (a page may be given away while a frame that writes to it is under
way, because every stage sees frames in the order in which they were ordered).
"""

from __future__ import annotations

import math
from collections import deque

from edgeserve.errors import EdgeserveError, Overloaded, Unprocessable
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.frames.micro_batch import Segment
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
from edgeserve.schedule.frames import Frames
from edgeserve.schedule.limits import Limits, Statistics
from edgeserve.schedule.page_holders import PageHolders
from edgeserve.schedule.sequence import Sequence


class Scheduler:
    """`handle` an event, carry out the actions it returns in their order."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._pages = PageHolders(limits.pages)
        self._frames = Frames(limits)
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}
        self._lost: EdgeserveError | None = None
        self._service_s = 1.0  # how long a request has lately taken from admission to end
        self._prompt_tokens = 0
        self._cached_tokens = 0

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
        actions += self._admissions(event.at_s)
        if self._lost is None:
            actions += [Send(micro_batch=each) for each in self._frames.order(event.at_s)]
        return actions

    def statistics(self) -> Statistics:
        return Statistics(
            running=len(self._running),
            waiting=len(self._waiting),
            pages_in_use=self._pages.in_use,
            pages_kept=self._pages.kept,
            frames_in_flight=self._frames.in_flight,
            micro_batches=self._frames.grouping.micro_batches,
            prompt_share=int(self._frames.share.tokens),
            step_ms=self._frames.times.document(),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
        )

    # -- events

    def _arrived(self, event: Arrived) -> list[Action]:
        sequence = Sequence(arrived=event, hashes=list(event.page_hashes))
        error = self._lost or self._never_fits(sequence) or self._queue_full()
        if error is not None:
            return [Reject(sequence=event.sequence, error=error)]
        self._waiting.append(sequence)
        return []

    def _frame_done(self, event: FrameDone) -> list[Action]:
        finished: list[Action] = []
        for segment in self._frames.landed(event):
            sequence = self._running.get(segment.sequence)
            if sequence is None:  # cancelled meanwhile
                continue
            news = event.news.get(segment.sequence, News())
            if segment.samples:
                sequence.generated += news.tokens
            self._name_pages(sequence, segment, news)
            if sequence.answers(segment):
                finished += self._tokens(sequence, news, event.at_s)
        return finished

    def _name_pages(self, sequence: Sequence, segment: Segment, news: News) -> None:
        """So that others can share what is computed: all but the newest token, and no draft."""
        if not self.limits.prefix_cache:
            return
        sequence.hashes += news.page_hashes
        newest = sequence.arrived.prompt_tokens + sequence.generated - 1
        computed = newest if sequence.generated else segment.end_position
        end = min(computed // PAGE_TOKENS, len(sequence.hashes))
        for at in range(sequence.named_pages, end):
            self._pages.name(sequence.pages[at], sequence.hashes[at])
        sequence.named_pages = max(sequence.named_pages, end)

    def _tokens(self, sequence: Sequence, news: News, at_s: float) -> list[Action]:
        """It has new tokens: goes on or ends."""
        if not news.stopped and sequence.generated < sequence.arrived.max_new_tokens:
            sequence.drafts = news.drafts
            self._frames.decode(sequence)
            return []
        self._forget(sequence)
        self._service_s += 0.2 * (at_s - sequence.admitted_s - self._service_s)
        reason = "eos_token" if news.stopped else "length"
        return [Finish(sequence=sequence.number, reason=reason)]

    def _frame_failed(self, event: FrameFailed) -> list[Action]:
        """Nothing of it was computed. If prompts were in it, they are to blame, and those that only
        rode with them go again; a frame that is refused without prompts fails all in it.
        """
        segments = self._frames.refused(event.frame)
        riders = [self._running[s.sequence] for s in segments if s.sequence in self._running]
        prompts = [each for each in riders if not each.generated]
        decodes = [each for each in riders if each.generated]
        failed = prompts or decodes
        for each in failed:
            self._forget(each)
        for each in decodes if prompts else ():
            self._frames.decode(each)
        return [Fail(sequence=each.number, error=event.error) for each in failed]

    def _cancelled(self, event: Cancelled) -> list[Action]:
        running = self._running.get(event.sequence)
        if running is not None:
            self._forget(running)
        self._waiting = deque(s for s in self._waiting if s.number != event.sequence)
        return []

    def _stage_lost(self, event: StageLost) -> list[Action]:
        self._lost = event.error
        ended: list[Action] = [Fail(sequence=s, error=event.error) for s in self._running]
        ended += [Reject(sequence=s.number, error=event.error) for s in self._waiting]
        for sequence in list(self._running.values()):
            self._forget(sequence)
        self._waiting.clear()
        self._frames.drop_all()
        self._pages.forget_names()  # the stage's pages are gone with it
        return ended

    def _ticked(self, event: Ticked) -> list[Action]:
        """Waiting is in order of arrival, so those that waited too long stand in front."""
        rejected: list[Action] = []
        limit_s = self.limits.queue_timeout_s
        while self._waiting and event.at_s - self._waiting[0].arrived.at_s > limit_s:
            sequence = self._waiting.popleft()
            error = self._overloaded(f"the request waited {limit_s:g} s for its turn")
            rejected.append(Reject(sequence=sequence.number, error=error))
        return rejected

    # -- admission

    def _never_fits(self, sequence: Sequence) -> Unprocessable | None:
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
            f"{why}; {running} are running and hold {self._pages.in_use} of {self._pages.total} "
            "pages; "
            f"try again in {retry_after_s} s",
            retry_after_s=retry_after_s, running=running, waiting=waiting,
            pages_in_use=self._pages.in_use, pages_total=self._pages.total,
        )  # fmt: skip

    def _admissions(self, now_s: float) -> list[Action]:
        """In order of arrival: a big request is never overtaken for ever."""
        admitted: list[Action] = []
        while self._waiting and len(self._running) < self.limits.max_running:
            sequence = self._waiting[0]
            hashes = sequence.shareable_hashes if self.limits.prefix_cache else ()
            reserved = self._pages.reserve(sequence.pages_needed, hashes)
            if reserved is None:
                break
            self._waiting.popleft()
            admitted.append(self._admit(sequence, *reserved, now_s))
        return admitted

    def _admit(
        self, sequence: Sequence, pages: tuple[int, ...], cached_pages: int, now_s: float
    ) -> Admit:
        cached_tokens = cached_pages * PAGE_TOKENS
        sequence.pages, sequence.admitted_s = pages, now_s
        sequence.ordered_tokens, sequence.named_pages = cached_tokens, cached_pages
        self._running[sequence.number] = sequence
        self._frames.begin(sequence)
        self._prompt_tokens += sequence.arrived.prompt_tokens
        self._cached_tokens += cached_tokens
        queued_s = now_s - sequence.arrived.at_s
        return Admit(sequence=sequence.number, queued_s=queued_s, cached_tokens=cached_tokens)

    def _forget(self, sequence: Sequence) -> None:
        del self._running[sequence.number]
        self._pages.release(sequence.pages)
        self._frames.end(sequence)
