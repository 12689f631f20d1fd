"""Fakes to test against, for edgeserve's own tests and for those of its users.

`FakeEngine` stands where the pipeline stands, so that the whole HTTP side runs without a worker, a
model or a network:

    engine = FakeEngine(ManualClock(), reply=b"Hello")
    app = create_app(AppState(engine=engine, tokenizer=open_tokenizer(None, 256), ...))

It keeps the terms of `pipeline/generation.py`: a request ends at `max_new_tokens` or at a stop
token and nowhere else, and its receipt adds up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeserve.clock import Clock, ManualClock
from edgeserve.errors import EdgeserveError, Overloaded, StageUnavailable
from edgeserve.frames.stage_time import StageTime
from edgeserve.pipeline.generation import (
    Ended,
    Generation,
    Order,
    ScoredPrompt,
    Seen,
    Status,
    Token,
)
from edgeserve.schedule.limits import Statistics
from edgeserve.timing.hop import Hop, Lap
from edgeserve.timing.ledger import Ledger, StageLabel
from edgeserve.timing.observer import Observer, Step

Reply = Sequence[int] | Callable[[Order], Sequence[int]]
LOGPROB = -0.5
COMPUTE_SHARE = 0.8  # of a hop; the rest is transfer
LAYERS_PER_STAGE = 4
PAGES = 100  # of which each running request has one
PAGE_BYTES = 2**20


def echo(order: Order) -> Sequence[int]:
    """A reply that says the prompt again."""
    return order.prompt


class FakeEngine:
    """Answers each order with the tokens of `reply`, over and over until the order is fulfilled.

    One token comes in each turn of the event loop. A ManualClock is moved on by `step_s` for each;
    with any other clock a token takes the time that it takes. The ids that follow its own are told
    as less likely ones. Everything ordered is in `orders`, everything cancelled before its end in
    `cancelled`, and `running` counts the others that have not ended.
    """

    def __init__(
        self, clock: Clock, reply: Reply = echo, *, stages: int = 2, step_s: float = 0.01
    ) -> None:
        self.cached_tokens = 0
        """Of each prompt from now on, as receipts and usage say."""
        self.orders: list[Order] = []
        self.cancelled: list[Order] = []
        self._clock = clock
        self._reply = reply
        self._step_s = step_s
        self._labels = tuple(_label(stage) for stage in range(stages))
        self.observer = Observer(self._labels)
        self._status = Status(phase="ready", since_last_frame_s=0.0)
        self._overload: Overloaded | None = None
        self._hold_after: int | None = None
        self._fail_after: tuple[int, EdgeserveError] | None = None
        self._running: list[_Running] = []
        self._changed = asyncio.Event()

    @property
    def running(self) -> int:
        return len(self._running)

    async def submit(self, order: Order) -> Generation:
        assert order.prompt, "an order has a prompt"
        if not self._status.is_ready:
            raise self._unavailable()
        if self._overload is not None:
            self.observer.requests.failed(self._overload.error_type)
            raise self._overload
        self.orders.append(order)
        running = self._begin(order)
        self._next_turn(running)
        return running.generation

    def scored(self, order: Order) -> tuple[Token, ...]:
        """What is told of a prompt's tokens."""
        if order.scoring is None:
            return ()
        tokens = order.prompt[order.scoring.first_position :]
        return tuple(_token(each, order.scoring.top_logprobs)._replace(rank=1) for each in tokens)

    def status(self) -> Status:
        return self._status

    async def cluster(self) -> dict[str, Any]:
        """With every key that a real one's has."""
        status, requests = self._status, self.observer.requests
        return {
            "model": "fake",
            "revision": None,
            "dtype": "fp32",
            "weights": "real",
            "simulation": status.simulation,
            "status": {
                "phase": status.phase,
                "reason": status.reason,
                "stage": status.stage,
                "worker": status.worker,
            },
            "pages": {"total": PAGES, "in_use": self.running, "kept": 0, "page_tokens": 16},
            "requests": {"running": self.running, "waiting": 0},
            "micro_batches": 1,
            "step_ms": {},
            "prompt_share": 0,
            "prompt_tokens": sum(len(order.prompt) for order in self.orders),
            "cached_tokens": 0,
            "generated_tokens": requests.tokens,
            "tokens_per_s": requests.rate.recent(self._clock.now_s()),
            "better_layers": None,
            "stages": [self._stage(label) for label in self._labels],
        }

    async def seen(self) -> Seen:
        statistics = Statistics(
            running=self.running,
            pages_in_use=self.running,
            prompt_tokens=sum(len(order.prompt) for order in self.orders),
        )
        return Seen(observer=self.observer.copied(), statistics=statistics, pages=PAGES)

    async def drain(self, timeout_s: float) -> None:
        self._status = Status(phase="draining", reason="the server is shutting down")
        try:
            async with asyncio.timeout(timeout_s):
                while self._running:
                    await self._wait_for_change()
        except TimeoutError:
            return

    def set_status(self, status: Status) -> None:
        """What `status` says from now on. Unless it is ready, new orders are refused."""
        self._status = status

    def overload(self, retry_after_s: int = 1) -> None:
        """From now on, new orders are refused as one too many."""
        self._overload = Overloaded(
            f"{self.running} requests are running and no more are taken; try again in "
            f"{retry_after_s} s",
            retry_after_s=retry_after_s,
            running=self.running,
        )

    def lose_stage(self, stage: int) -> None:
        """From now on a stage is gone: running requests fail, new ones are refused."""
        worker = self._labels[stage].worker
        reason = f"stage {stage} on {worker} is lost"
        self._status = Status(phase="stage_lost", reason=reason, stage=stage, worker=worker)
        for running in tuple(self._running):
            self._end(running, self._unavailable())

    def hold(self, after_tokens: int = 0) -> None:
        """From now on, no request gets more than `after_tokens` tokens until `release`."""
        self._hold_after = after_tokens

    def fail(self, error: EdgeserveError, after_tokens: int = 0) -> None:
        """From now on, each request that gets so far ends with `error` after `after_tokens`
        tokens.
        """
        self._fail_after = (after_tokens, error)

    def release(self) -> None:
        """Ends `hold`, `fail`, `overload` and `lose_stage`; requests that were held go on."""
        self._hold_after = self._fail_after = self._overload = None
        self._status = Status(phase="ready", since_last_frame_s=0.0)
        for running in self._running:
            if running.is_held:
                running.is_held = False
                self._next_turn(running)

    async def wait_for_orders(self, count: int) -> None:
        """Returns once `count` orders have been taken."""
        while len(self.orders) < count:
            await self._wait_for_change()

    async def wait_for_cancelled(self, count: int) -> None:
        """Returns once `count` requests have been cancelled."""
        while len(self.cancelled) < count:
            await self._wait_for_change()

    def _stage(self, label: StageLabel) -> dict[str, Any]:
        hop_ms = 1e3 * self._step_s / len(self._labels)
        return {
            "stage": label.stage,
            "worker": label.worker,
            "device": "cpu",
            "device_name": "fake",
            "simulation": None,
            "layers": list(label.layers),
            "embedding": label.stage == 0,
            "head": label.stage == len(self._labels) - 1,
            "memory_bytes": 4 * PAGES * PAGE_BYTES,
            "slice_bytes": 2 * PAGES * PAGE_BYTES,
            "slice_hash": "",
            "pages": PAGES,
            "page_bytes": PAGE_BYTES,
            "load_s": 0.0,
            "weights": {"from": "local", "streamed_bytes": 0, "sent_bytes": 0},
            "compute_ms": COMPUTE_SHARE * hop_ms,
            "transfer_ms": (1 - COMPUTE_SHARE) * hop_ms,
            "waiting_ms": 0.0,
            "other_ms": 0.0,
            "straggling": None,
        }

    def _begin(self, order: Order) -> _Running:
        reply = self._reply(order) if callable(self._reply) else self._reply
        now_s = self._clock.now_s()
        ledger = Ledger(
            labels=self._labels,
            received_s=order.received_s,
            prompt_tokens=len(order.prompt),
            queued_s=now_s - order.received_s,
            cached_tokens=self.cached_tokens,
        )
        generation = Generation(ledger, lambda: self._cancel(running))
        running = _Running(order=order, reply=reply, ledger=ledger, generation=generation)
        self._running.append(running)
        generation.deliver(ScoredPrompt(self.scored(order)))
        self._announce()
        return running

    def _next_turn(self, running: _Running) -> None:
        running.last_s = self._clock.now_s()
        asyncio.get_running_loop().call_soon(self._step, running)

    def _step(self, running: _Running) -> None:
        if running not in self._running:
            return
        if self._fail_after is not None and running.made == self._fail_after[0]:
            self._end(running, self._fail_after[1])
        elif self._hold_after is not None and running.made >= self._hold_after:
            running.is_held = True
        elif running.order.max_new_tokens:
            self._make_token(running)
        else:
            self._book(running, tokens=0)
            self._end(running, Ended(reason="length"))

    def _make_token(self, running: _Running) -> None:
        token_id = running.reply[running.made % len(running.reply)]
        running.made += 1
        self._book(running)
        token = _token(token_id, running.order.sampling.top_logprobs)
        running.generation.deliver(token)
        if token_id in running.order.stop_ids:
            self._end(running, Ended(reason="eos_token"))
        elif running.made == running.order.max_new_tokens:
            self._end(running, Ended(reason="length"))
        else:
            self._next_turn(running)

    def _book(self, running: _Running, tokens: int = 1) -> None:
        """A lap whose hops share the time since the last token evenly."""
        if isinstance(self._clock, ManualClock):
            self._clock.advance(self._step_s)
        start_s, end_s = running.last_s, self._clock.now_s()
        hop_s = (end_s - start_s) / len(self._labels)
        hops = tuple(
            Hop(
                stage=label.stage,
                sent_s=start_s + label.stage * hop_s,
                returned_s=start_s + (label.stage + 1) * hop_s,
                inside=StageTime(compute_s=COMPUTE_SHARE * hop_s),
            )
            for label in self._labels
        )
        step = Step(
            frame=self.observer.frames, tokens=1, sequences=1,
            ordered_s=start_s, hops=hops, done_s=end_s,
        )  # fmt: skip
        running.ledger.lap(Lap(ready_s=start_s, ordered_s=start_s, hops=hops, done_s=end_s))
        if tokens:
            self.observer.requests.lap(running.ledger, tokens, end_s)
            running.ledger.token(end_s)
        self.observer.step(step)

    def _cancel(self, running: _Running) -> None:
        if running in self._running:
            self.cancelled.append(running.order)
            reason = "stop_sequence" if running.generation.is_answered else "cancelled"
            self.observer.requests.ended(running.ledger, reason)
            self._forget(running)

    def _end(self, running: _Running, how: Ended | EdgeserveError) -> None:
        if isinstance(how, Ended):
            self.observer.requests.ended(running.ledger, how.reason)
        else:
            self.observer.requests.failed(how.error_type)
        self._forget(running)
        running.generation.deliver(how)

    def _forget(self, running: _Running) -> None:
        self._running.remove(running)
        self._announce()

    def _unavailable(self) -> StageUnavailable:
        status = self._status
        return StageUnavailable(status.reason, stage=status.stage, worker=status.worker)

    async def _wait_for_change(self) -> None:
        await self._changed.wait()

    def _announce(self) -> None:
        """Wakes whoever waits now; whoever waits later waits for the next change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


@dataclass(kw_only=True, eq=False)
class _Running:
    order: Order
    reply: Sequence[int]
    ledger: Ledger = field(repr=False)
    generation: Generation = field(repr=False)
    made: int = 0
    last_s: float = 0.0
    is_held: bool = False


def _token(token_id: int, top_logprobs: int) -> Token:
    top = tuple((token_id + i, LOGPROB - i) for i in range(top_logprobs))
    return Token(token=token_id, logprob=LOGPROB, top=top)


def _label(stage: int) -> StageLabel:
    start = stage * LAYERS_PER_STAGE
    return StageLabel(
        stage=stage,
        worker=f"127.0.0.1:{50051 + stage}",
        layers=(start, start + LAYERS_PER_STAGE),
    )
