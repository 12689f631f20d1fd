"""Whatever happens, in whatever order: nobody writes to a page that another reads, positions have
no gap, requests one end.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import StageUnavailable
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.frames.micro_batch import MicroBatch, Opening, Segment
from edgeserve.schedule.events import (
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
from edgeserve.schedule.limits import Limits
from edgeserve.schedule.scheduler import Scheduler

KINDS = ["land"] * 12 + ["arrive"] * 6 + ["back"] * 2 + ["cancel", "tick", "refuse", "lose"]
LIMITS = st.builds(
    Limits,
    stages=st.integers(1, 4),
    processors=st.integers(1, 4),
    pages=st.integers(2, 24),
    context_tokens=st.sampled_from([64, 200]),
    micro_batches=st.one_of(st.none(), st.integers(1, 4)),
    max_running=st.integers(1, 5),
    max_waiting=st.integers(1, 4),
    prefill_chunk=st.sampled_from([1, 5, 16, 64]),
    queue_timeout_s=st.just(40.0),
    prefix_cache=st.booleans(),
)
HISTORY = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(1, 2**16)), min_size=20, max_size=80
)

MANY_LIVES = 8000


@dataclass(kw_only=True)
class Known:
    """One request as an onlooker sees it."""

    prompt: int
    new: int
    hashes: list[bytes]
    """Of its full pages."""
    positions: int = 0
    """Tokens [0, positions) were ordered."""
    generated: int = 0
    drafts: int = 0
    pages: tuple[int, ...] = ()
    runs: bool = False
    waits_for_token: bool = False
    """A frame that samples for it is under way."""

    def news(self, sequence: int, tokens: int, stopped: bool, drafts: int) -> News:
        self.generated += tokens
        self.drafts = drafts
        full = (self.prompt + self.generated) // PAGE_TOKENS
        new = [f"{sequence} {page}".encode() for page in range(len(self.hashes), full)]
        self.hashes += new
        return News(tokens=tokens, stopped=stopped, drafts=drafts, page_hashes=tuple(new))


@dataclass(kw_only=True)
class Onlooker:
    """Drives a scheduler, believes nothing, and keeps count."""

    limits: Limits
    scheduler: Scheduler
    now_s: float = 0.0
    alive: dict[int, Known] = field(default_factory=dict)
    ends: Counter[int] = field(default_factory=Counter)
    opened: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    under_way: list[MicroBatch] = field(default_factory=list)
    said: list[list[bytes]] = field(default_factory=list)
    """The hashes of earlier sequences, which later prompts may begin with."""
    content: dict[int, bytes] = field(default_factory=dict)
    """What a page holds that is full and computed, by page."""
    lost: bool = False
    next_sequence: int = 1

    def do(self, kind: str, number: int) -> None:
        self.now_s += number % 7
        match kind:
            case "arrive":
                self._arrive(number)
            case "land" if self.under_way:
                self.land(number, {s for s in self.alive if (s * number) % 11 == 0})
            case "refuse" if self.under_way:
                self._refuse(self.under_way.pop(0))
            case "cancel" if self.alive:
                sequence = sorted(self.alive)[number % len(self.alive)]
                self._end(sequence)
                self._tell(Cancelled(sequence=sequence, at_s=self.now_s))
            case "tick":
                self._tell(Ticked(at_s=self.now_s))
            case "lose":
                self._lose()
            case "back":
                self.lost = False
                self._tell(StageBack(at_s=self.now_s))

    def _refuse(self, it: MicroBatch) -> None:
        """Its prompts end; its decodes go again, unless there was nothing but them."""
        riders = [segment for segment in it.segments if segment.sequence in self.alive]
        prompts = [s for s in riders if not self.alive[s.sequence].generated]
        for segment in riders:
            known = self.alive[segment.sequence]
            if prompts and known.generated:
                known.positions, known.waits_for_token = segment.first_position, False
        error = StageUnavailable("refused")
        self._tell(FrameFailed(frame=it.frame, error=error, at_s=self.now_s))
        ended = {segment.sequence for segment in prompts or riders}
        assert not self.alive.keys() & ended
        assert self.alive.keys() >= {segment.sequence for segment in riders} - ended

    def land(self, number: int, stopped: set[int]) -> None:
        it = self.under_way.pop(0)
        news = {}
        for segment in it.segments:
            known = self.alive.get(segment.sequence)
            if known is None:
                continue
            if segment.samples:
                tokens = number % segment.samples + 1
                drafts = min(number % 5, known.new - known.generated - tokens - 1)
                stops = segment.sequence in stopped
                news[segment.sequence] = known.news(segment.sequence, tokens, stops, max(0, drafts))
                known.positions = known.prompt + known.generated - 1
                known.waits_for_token = False
            self._computed(known, segment)
        over = {s for s in news if self.alive[s].generated == self.alive[s].new}
        stages = range(self.limits.stages)
        self._tell(
            FrameDone(
                frame=it.frame,
                news=news,
                compute_s=tuple(0.01 * (number >> stage & 3) for stage in stages),
                hops_s=0.001 * (number % 3),
                at_s=self.now_s,
            )
        )
        assert not self.alive.keys() & (over | (stopped & news.keys())), "it should have finished"

    def _computed(self, known: Known, segment: Segment) -> None:
        """Drafts that were wrong are no content."""
        right = min(segment.end_position, known.positions or segment.end_position)
        for page in range(segment.first_position // PAGE_TOKENS, right // PAGE_TOKENS):
            self.content[known.pages[page]] = known.hashes[page]

    def _arrive(self, number: int) -> None:
        """A third of them begin as somebody before did, further than that one's prompt perhaps."""
        sequence, self.next_sequence = self.next_sequence, self.next_sequence + 1
        prompt, new = number % 61 + 1, number // 64 % 23 + 1
        hashes: list[bytes] = []
        if number % 3 == 0 and self.said:
            hashes = self.said[number % len(self.said)][: number % 5]
            prompt += PAGE_TOKENS * len(hashes)
        own = range(len(hashes), prompt // PAGE_TOKENS)
        hashes = [*hashes, *(f"{sequence} {page}".encode() for page in own)]
        self.alive[sequence] = Known(prompt=prompt, new=new, hashes=hashes)
        self.said.append(self.alive[sequence].hashes)
        self._tell(
            Arrived(
                sequence=sequence,
                prompt_tokens=prompt,
                max_new_tokens=new,
                page_hashes=tuple(hashes),
                at_s=self.now_s,
            )
        )

    def _lose(self) -> None:
        self.lost = True
        self.under_way.clear()
        self.content.clear()
        self._tell(StageLost(error=StageUnavailable("lost"), at_s=self.now_s))
        assert not self.alive

    def _tell(self, event: Event) -> None:
        for action in self.scheduler.handle(event):
            match action:
                case Send(micro_batch=it):
                    self._check_frame(it)
                    self.under_way.append(it)
                case Admit(sequence=sequence):
                    assert not self.alive[sequence].runs
                    self.alive[sequence].runs = True
                case Finish(sequence=sequence) | Fail(sequence=sequence):
                    assert self.alive[sequence].runs
                    self._end(sequence)
                case Reject(sequence=sequence):
                    assert not self.alive[sequence].runs
                    self._end(sequence)
        self._check_totals()

    def _end(self, sequence: int) -> None:
        del self.alive[sequence]
        self.ends[sequence] += 1

    def _check_frame(self, it: MicroBatch) -> None:
        assert not self.lost
        assert 0 < it.tokens <= self.limits.frame_tokens_max
        for sequence in it.close:
            assert sequence in self.opened, "closed, but no stage ever heard of it"
            assert sequence not in self.alive
        first = {segment.sequence: segment.first_position for segment in it.segments}
        for opening in it.open:
            assert opening.sequence not in self.opened, "opened twice"
            self.opened.add(opening.sequence)
            self._check_opening(opening, first[opening.sequence])
        self.closed.update(it.close)
        riders = [segment.sequence for segment in it.segments]
        assert len(riders) == len(set(riders))
        for segment in it.segments:
            self._check_segment(segment)
        prompt_tokens = sum(s.tokens for s in it.segments if s.first_position < self._prompt(s))
        assert prompt_tokens <= self.limits.prefill_chunk
        with_decodes = sum(self._has_decodes(each) for each in [*self.under_way, it])
        assert with_decodes <= (self.limits.micro_batches or self.limits.stages)

    def _check_opening(self, opening: Opening, first_position: int) -> None:
        """What is not computed is there already."""
        known = self.alive[opening.sequence]
        known.pages, known.positions = opening.pages, first_position
        assert len(set(opening.pages)) == len(opening.pages)
        assert first_position % PAGE_TOKENS == 0
        assert first_position < known.prompt, "no answer without a token"
        assert first_position == 0 or self.limits.prefix_cache
        for at in range(first_position // PAGE_TOKENS):
            assert self.content[opening.pages[at]] == known.hashes[at], "a stranger's page"

    def _check_segment(self, segment: Segment) -> None:
        known = self.alive[segment.sequence]
        assert segment.sequence in self.opened
        assert segment.first_position == known.positions, "a gap, or a token twice"
        assert not known.waits_for_token, "its last token is not known yet"
        known.positions = segment.end_position
        assert (segment.samples > 0) == (known.positions >= known.prompt)
        drafts = max(0, segment.samples - 1)
        assert drafts <= known.drafts
        assert known.positions <= known.prompt + known.generated + drafts
        assert known.positions <= known.prompt + known.new - 1 + (known.generated == 0)
        assert known.positions <= len(known.pages) * PAGE_TOKENS
        known.waits_for_token = segment.samples > 0
        self._check_writes(segment)

    def _check_writes(self, segment: Segment) -> None:
        """Nobody else holds the page, and what was in it is gone."""
        last = (segment.end_position - 1) // PAGE_TOKENS
        pages = self.alive[segment.sequence].pages[segment.first_position // PAGE_TOKENS : last + 1]
        for page in pages:
            holders = [s for s, known in self.alive.items() if page in known.pages]
            assert holders == [segment.sequence], "another reads what it writes to"
            self.content.pop(page, None)

    def _prompt(self, segment: Segment) -> int:
        return self.alive[segment.sequence].prompt

    def _has_decodes(self, it: MicroBatch) -> bool:
        """Of those that are alive: of the others nobody keeps the prompt's length."""
        return any(
            s.first_position >= self.alive[s.sequence].prompt
            for s in it.segments
            if s.sequence in self.alive
        )

    def _check_totals(self) -> None:
        statistics = self.scheduler.statistics()
        running = [known for known in self.alive.values() if known.runs]
        assert (statistics.running, statistics.waiting) == (
            len(running),
            len(self.alive) - len(running),
        )
        reserved = sum(math.ceil((each.prompt + each.new) / PAGE_TOKENS) for each in running)
        held = {page for each in running for page in each.pages}
        assert len(held) <= statistics.pages_in_use <= reserved
        assert statistics.pages_in_use + statistics.pages_kept <= self.limits.pages
        assert self.limits.prefix_cache or statistics.pages_in_use == reserved
        assert statistics.running <= self.limits.max_running
        assert statistics.waiting <= self.limits.max_waiting
        assert statistics.frames_in_flight == len(self.under_way)
        assert len(self.under_way) <= self.limits.prompt_frames_max
        assert self.under_way or not running, "somebody runs, and nothing is under way"


def _live_through(limits: Limits, history: list[tuple[str, int]]) -> None:
    onlooker = Onlooker(limits=limits, scheduler=Scheduler(limits))
    for kind, number in history:
        onlooker.do(kind, number)
    onlooker.do("back", 0)
    bound = sum(known.prompt + known.new for known in onlooker.alive.values())
    for _ in range(bound + limits.prompt_frames_max):
        if not onlooker.under_way:
            break
        onlooker.land(bound, stopped=set())
    assert not onlooker.alive, "a loyal driver ends everything: nobody starves"
    assert onlooker.ends == dict.fromkeys(range(1, onlooker.next_sequence), 1)
    assert onlooker.scheduler.statistics().pages_in_use == 0, "a page leaked"
    onlooker.do("arrive", 1)
    assert onlooker.closed == onlooker.opened - onlooker.alive.keys()
    #      the last frame tells the stages of all that ended before it


@settings(max_examples=100, deadline=None)
@given(limits=LIMITS, history=HISTORY)
def test_no_page_is_shared_wrongly_no_position_is_missed_and_every_request_ends_once(
    limits: Limits, history: list[tuple[str, int]]
) -> None:
    _live_through(limits, history)


@pytest.mark.slow
def test_the_same_in_many_more_lives() -> None:
    """Drawn without Hypothesis, which takes three times as long to draw a life as it lasts."""
    for seed in range(MANY_LIVES):
        draw = random.Random(seed)
        limits = _drawn_limits(draw)
        history = [
            (draw.choice(KINDS), draw.randint(1, 2**16)) for _ in range(draw.randint(20, 80))
        ]
        try:
            _live_through(limits, history)
        except Exception as error:
            error.add_note(f"in life {seed}: {limits}, {history}")
            raise


def _drawn_limits(draw: random.Random) -> Limits:
    """Within the bounds of `LIMITS`."""
    return Limits(
        stages=draw.randint(1, 4),
        processors=draw.randint(1, 4),
        pages=draw.randint(2, 24),
        context_tokens=draw.choice([64, 200]),
        micro_batches=draw.choice([None, 1, 2, 3, 4]),
        max_running=draw.randint(1, 5),
        max_waiting=draw.randint(1, 4),
        prefill_chunk=draw.choice([1, 5, 16, 64]),
        queue_timeout_s=40.0,
        prefix_cache=draw.random() < 0.5,
    )
