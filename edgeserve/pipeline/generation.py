"""One request between the HTTP side and the pipeline: what is ordered, and the stream of tokens
that comes back.

The two sides live on different threads, each with its event loop. A `Generation` is read on the
HTTP side's loop; the pipeline reaches it through `call_soon_threadsafe` alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

from edgeserve.errors import EdgeserveError
from edgeserve.frames.sampling import Sampling
from edgeserve.schedule.limits import Statistics
from edgeserve.timing.ledger import Ledger
from edgeserve.timing.observer import Observer


class Guide(Protocol):
    """Which tokens may come next in one answer. `gateway/text/grammar.py` has the real one."""

    def mask(self) -> bytes:
        """A bit for each token of the vocabulary, set if it may come next; the lowest of each byte
        comes first. Tokens beyond its end may not come.
        """
        ...

    def advance(self, token: int) -> None:
        """The answer goes on with `token`. Raises EdgeserveError if then nothing may come."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Which tokens of a prompt get log-probabilities: those from `first_position` on."""

    first_position: int = 1
    """1 or more: nothing is before the first token."""
    top_logprobs: int = 0
    """How many of the most likely tokens are told in the place of each."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request that was checked and tokenized."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    """0 if the prompt alone matters."""
    sampling: Sampling
    stop_ids: frozenset[int]
    """Tokens that end the sequence; the one that did is its last token."""
    eos_ids: frozenset[int] = frozenset()
    """Those of them with which the model says that it is done. The others a client named."""
    received_s: float
    """When the request came in, on the gateway's clock."""
    tenant: str = ""
    """Whose request it is: pages of prompts are shared among the requests of one tenant only."""
    speculate: bool = True
    """Whether drafted tokens may be tried for it."""
    guide: Guide | None = None
    """What the answer is held to. It follows the answer, so each order has its own."""
    scoring: Scoring | None = None


class Token(NamedTuple):
    """A tuple: two dozen are made in each step, and others take three times as long to make."""

    token: int
    logprob: float
    """Natural logarithm, of the unfiltered distribution."""
    top: tuple[tuple[int, float], ...] = ()
    """The most likely tokens of that distribution and their log-probabilities, the likeliest first;
    as many as `Sampling.top_logprobs` asks for, or `Scoring.top_logprobs` in a prompt.
    """
    rank: int = 0
    """1 + how many tokens are likelier, of a token in a prompt; 0: not counted."""


class ScoredPrompt(NamedTuple):
    """The next tokens of the prompt that were scored; all of them come before the first token."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`reason` is 'length' or 'eos_token'. A request that fails ends with an error instead."""

    reason: str


Arrival = ScoredPrompt | Token | Ended | EdgeserveError


class Generation:
    """An accepted request: iterate for its tokens, `cancel` when nobody wants more.

    `async for token in generation` ends when the request does, after which `ended` is set, or
    raises the EdgeserveError that ended it.
    """

    def __init__(self, ledger: Ledger, cancel: Callable[[], None]) -> None:
        self.ended: Ended | None = None
        self.is_answered = False
        """Cancelled because its answer is complete, as behind a stop string."""
        self._ledger = ledger
        self._cancel = cancel
        self.prompt: list[Token] = []
        """Those of the prompt that were to be scored. Complete with the first token, or the end."""
        self._arrivals: asyncio.Queue[Token | Ended | EdgeserveError] = asyncio.Queue()

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Token:
        arrival = await self._arrivals.get()
        if isinstance(arrival, Token):
            return arrival
        self._arrivals.put_nowait(arrival)  # so that whoever asks again gets the same answer
        if isinstance(arrival, Ended):
            self.ended = arrival
            raise StopAsyncIteration
        raise arrival

    def deliver(self, arrival: Arrival) -> None:
        """Called by the pipeline, on this side's loop."""
        if isinstance(arrival, ScoredPrompt):
            self.prompt += arrival.tokens
        else:
            self._arrivals.put_nowait(arrival)

    def cancel(self, *, answered: bool = False) -> None:
        """Frees its pages at once. Harmless when it has ended."""
        self.is_answered = answered
        self._cancel()

    @property
    def cached_tokens(self) -> int:
        """Of the prompt: their keys and values were there already. Known with the first token."""
        return self._ledger.cached_tokens

    def receipt(self, finished_s: float, tokens: int) -> dict[str, Any]:
        """The RECEIPT for its first `tokens` tokens."""
        return self.receipt_later(finished_s, tokens)()

    def receipt_later(self, finished_s: float, tokens: int) -> Callable[[], dict[str, Any]]:
        """What makes it, and holds nothing but the times that it is made of."""
        return partial(self._ledger.receipt, finished_s, tokens)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Whether a token can be produced now, and if not, why."""

    phase: str
    """'starting', 'ready', 'stage_lost' or 'draining'."""
    reason: str = ""
    stage: int | None = None
    worker: str | None = None
    since_last_frame_s: float | None = None
    """How long ago the last frame came back; None before the first."""
    simulation: str | None = None
    """What has to be said beside every answer; None if all stages compute."""

    @property
    def is_ready(self) -> bool:
        return self.phase == "ready"


STARTING = Status(phase="starting", reason="the workers are being connected")


@dataclass(kw_only=True)
class Published:
    """What any thread may read at any time: the pipeline's thread alone replaces its values, each
    of them whole.
    """

    status: Status = STARTING
    simulation: str | None = None
    """Of the stages that were loaded last."""
    last_frame_s: float | None = None
    """When the last frame came back, on the gateway's clock; None before the first."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What /metrics and /trace are made of: a copy, to which nothing is added any more."""

    observer: Observer
    statistics: Statistics
    pages: int
    """That there are, on every stage."""


class Engine(Protocol):
    """What the HTTP side needs of the pipeline. `pipeline/engine.py` is the real one,
    `testing.FakeEngine` a fake.
    """

    async def submit(self, order: Order) -> Generation:
        """Admission is decided here, before an answer begins.

        Raises Unprocessable (it can never fit), Overloaded (not now) or StageUnavailable.
        """
        ...

    def status(self) -> Status: ...

    async def cluster(self) -> dict[str, Any]:
        """The document of GET /v1/cluster."""
        ...

    async def seen(self) -> Seen | None:
        """None until there is a plan."""
        ...

    async def drain(self, timeout_s: float) -> None:
        """Refuses new requests, and returns when the running ones have ended or time is up."""
        ...
