"""Carries frames through the stages, books every hop, and notices a stage that is gone.

The one file that knows the shape of the pipeline: a hub, to which every frame returns after each
stage. It never looks inside a frame: the head is made once, the payload is whatever the stage
before it answered. One task reads each stage's results and writes them to the next stage itself, so
that frames enter a stage in the order in which they left the one before, without a wake-up between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from edgeserve.clock import Clock
from edgeserve.errors import EdgeserveError, StageUnavailable, WireError
from edgeserve.pipeline.connection import FrameStream
from edgeserve.pipeline.deadline import SilenceBound
from edgeserve.timing.hop import Hop
from edgeserve.wire import SOON
from edgeserve.wire.codec import decode_result, with_payload
from edgeserve.wire.frame import Failure, FrameResult, Sampled, Scored

WATCH_PERIOD_S = 0.25
RECENT_HOPS = 128


@dataclass(frozen=True, kw_only=True)
class Trip:
    """A frame that is through, or that a stage refused."""

    frame: int
    hops: tuple[Hop, ...]
    sampled: tuple[Sampled, ...]
    failure: Failure | None
    scored: tuple[Scored, ...] = ()


@dataclass(kw_only=True)
class _Frame:
    number: int
    tokens: int
    head: bytes
    for_last: bytes
    """Of the head, for the last stage alone: masks are larger than all else that a decode carries.
    """
    hops: list[Hop] = field(default_factory=list)


@dataclass(kw_only=True)
class StageLink:
    """One stage's stream, and what is under way on it."""

    stage: int
    worker: str
    stream: FrameStream
    silence: SilenceBound
    under_way: dict[int, tuple[_Frame, float]] = field(default_factory=dict)
    """Frame number to frame and when it was sent; the oldest first."""
    last_result_s: float = 0.0
    recent: deque[Hop] = field(default_factory=lambda: deque(maxlen=RECENT_HOPS))

    def silent_too_long(self, now_s: float) -> float | None:
        """For how long, if it is too long."""
        if not self.under_way:
            return None
        frame, sent_s = next(iter(self.under_way.values()))
        silent_s = now_s - max(sent_s, self.last_result_s)
        return silent_s if silent_s > self.silence.bound_s(frame.tokens) else None


class Relay:
    """`send` frames; `on_trip` is called for each that returns, `on_lost` once if a stage is gone.
    Then it is over.
    """

    def __init__(
        self,
        links: Sequence[StageLink],
        clock: Clock,
        on_trip: Callable[[Trip], None],
        on_lost: Callable[[StageUnavailable], None],
    ) -> None:
        self.links = links
        self._clock = clock
        self._on_trip = on_trip
        self._on_lost = on_lost
        self._outbox: asyncio.Queue[tuple[_Frame, bytes] | None] = asyncio.Queue()
        """None: a frame is about to come."""
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    def start(self) -> None:
        first = self.links[0]
        self._tasks.append(asyncio.create_task(self._guarded(first, self._write_first(first))))
        for link in self.links:
            self._tasks.append(asyncio.create_task(self._guarded(link, self._read_all(link))))
        self._tasks.append(asyncio.create_task(self._watch()))

    def send(
        self, number: int, tokens: int, head: bytes, payload: bytes, for_last: bytes = b""
    ) -> None:
        """Orders a frame into stage 0. Returns at once."""
        frame = _Frame(number=number, tokens=tokens, head=head, for_last=for_last)
        self._outbox.put_nowait((frame, payload))

    async def close(self) -> None:
        """Ends the streams, and with them the workers' sessions."""
        self._over = True
        for task in self._tasks:
            task.cancel()
        for link in self.links:
            link.stream.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _guarded(self, link: StageLink, work: asyncio.Future[None] | object) -> None:
        try:
            await work  # type: ignore[misc]  # a coroutine of ours
        except EdgeserveError as error:
            self._lost(link, str(error))

    async def _write_first(self, link: StageLink) -> None:
        """Frames into stage 0, in the order in which they were ordered."""
        while True:
            ordered = await self._outbox.get()
            if ordered is None:
                await link.stream.send(SOON)
            else:
                await self._write(link, *ordered)

    async def _write(self, link: StageLink, frame: _Frame, payload: bytes) -> None:
        head = frame.head + frame.for_last if link is self.links[-1] else frame.head
        message = with_payload(head, payload)
        link.under_way[frame.number] = (frame, self._clock.now_s())
        await link.stream.send(message)

    async def _read_all(self, link: StageLink) -> None:
        while True:
            raw = await link.stream.receive()
            if raw == SOON:
                await self._announce_after(link)
                continue
            now_s = self._clock.now_s()
            result = decode_result(raw)
            if result.frame not in link.under_way:
                raise WireError(
                    f"worker {link.worker} answered frame {result.frame}, which it was not sent"
                )
            frame, sent_s = link.under_way.pop(result.frame)
            link.last_result_s = now_s
            self._book(link, frame, result, sent_s, now_s)
            await self._pass_on(link, frame, result)

    async def _announce_after(self, link: StageLink) -> None:
        """The stage will soon be done: the next one, or the first with the next step, is to come.
        An awake path carries a frame in half of the time (docs/LOG.md).
        """
        if link is self.links[-1]:
            self._outbox.put_nowait(None)
        else:
            following = self.links[link.stage + 1]
            await self._guarded(following, following.stream.send(SOON))

    def _book(
        self, link: StageLink, frame: _Frame, result: FrameResult, sent_s: float, now_s: float
    ) -> None:
        hop = Hop(stage=link.stage, sent_s=sent_s, returned_s=now_s, inside=result.time)
        frame.hops.append(hop)
        link.recent.append(hop)
        link.silence.measured(frame.tokens, result.time.held_s - result.time.queue_s)

    async def _pass_on(self, link: StageLink, frame: _Frame, result: FrameResult) -> None:
        """To the next stage, whose frames all come from here, so that they stay in order."""
        is_last = link is self.links[-1]
        if not is_last and result.failure is None:
            following = self.links[link.stage + 1]
            await self._guarded(following, self._write(following, frame, result.payload))
            return
        self._on_trip(
            Trip(
                frame=frame.number,
                hops=tuple(frame.hops),
                sampled=result.sampled,
                failure=result.failure,
                scored=result.scored,
            )
        )

    async def _watch(self) -> None:
        while not self._over:
            await asyncio.sleep(WATCH_PERIOD_S)
            for link in self.links:
                silent_s = link.silent_too_long(self._clock.now_s())
                if silent_s is not None:
                    self._lost(link, f"it has not answered for {silent_s:.1f} s")

    def _lost(self, link: StageLink, why: str) -> None:
        if self._over:
            return
        self._over = True
        self._on_lost(
            StageUnavailable(
                f"stage {link.stage} on worker {link.worker} is lost: {why}; the gateway is "
                "trying to get it "
                "back, send the request again in a few seconds",
                stage=link.stage,
                worker=link.worker,
            )
        )
