"""Puts a batch of requests on the gateway at once, and notes when each token arrived.

Every wait is bounded: by the silence after which a stream counts as dead, and by the number of
tokens that were asked for. Nothing is parsed while tokens arrive: that would be measured too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

import httpx

from edgeserve.clock import Clock
from edgeserve.errors import (
    BadRequest,
    EdgeserveError,
    StageUnavailable,
    Unauthorized,
    WireError,
    named_errors,
)
from edgeserve.probe.cluster import Cluster, parse_cluster
from edgeserve.probe.prompts import prompt_text
from edgeserve.probe.receipt import Receipt, parse_receipt

CONNECT_TIMEOUT_S = 5.0
WARM_UP_TOKENS = 8
"""Enough to compile, capture and connect whatever the first request of a batch has to pay for."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What every request asks for."""

    input_tokens: int
    output_tokens: int
    speculate: bool = False
    """With drafted tokens, if the gateway has any. Without, a figure is of the plain pace."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request, as its client saw it and as its receipt tells it."""

    started_s: float
    token_s: tuple[float, ...]
    """When each token arrived."""
    receipt: Receipt

    @property
    def ttft_s(self) -> float:
        return self.token_s[0] - self.started_s

    @property
    def tpot_s(self) -> float:
        """Between tokens, on average; of one token there is no such time."""
        return (self.token_s[-1] - self.token_s[0]) / max(1, len(self.token_s) - 1)


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """A batch that was answered."""

    answers: tuple[Answer, ...]

    @property
    def output_tok_s(self) -> float:
        """All tokens over all time: from the first request sent to the last token received."""
        start_s = min(each.started_s for each in self.answers)
        end_s = max(each.token_s[-1] for each in self.answers)
        return sum(len(each.token_s) for each in self.answers) / (end_s - start_s)

    @property
    def at_once(self) -> int:
        """How many ran together: all but those that had to wait until another one ended.

        Those waited about as long as a request takes, and the rest hardly at all.
        """
        shortest_ms = min(each.receipt.total_ms for each in self.answers)
        return sum(each.receipt.queue_ms < shortest_ms / 2 for each in self.answers)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A batch that the cluster would not or could not run."""

    status: Literal["oom", "rejected"]
    reason: str


@dataclass(frozen=True, kw_only=True)
class _Stream:
    """An answer before it is read."""

    started_s: float
    http_status: int
    events: tuple[tuple[float, str], ...]
    """When it arrived, and its data. If the status is not 200 there is one: the body."""


class Load:
    """Speaks to one gateway."""

    def __init__(self, http: httpx.AsyncClient, clock: Clock, silence_s: float) -> None:
        self._http = http
        self._clock = clock
        self._silence_s = silence_s
        self._batches = 0
        self._salt = secrets.token_hex(8)  # of an earlier probe's prompts, pages may be kept

    async def cluster(self) -> Cluster:
        try:
            response = await self._http.get("/v1/cluster")
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        if response.status_code != httpx.codes.OK:
            _refused(response.status_code, _parse(response.text))
            raise StageUnavailable(f"GET /v1/cluster: status {response.status_code}")
        return parse_cluster(_parse(response.text))

    async def warm_up(self, batch: int, shape: Shape) -> Refusal | None:
        """Not measured. A refusal is one all the same, and comes sooner."""
        tokens = min(WARM_UP_TOKENS, shape.output_tokens)
        first = await self.run(batch, replace(shape, output_tokens=tokens))
        return first if isinstance(first, Refusal) else None

    async def run(self, batch: int, shape: Shape) -> LoadRun | Refusal:
        """`batch` requests at once. Raises what keeps a cluster from answering any request."""
        self._batches += 1
        seeds = [f"{self._salt}/{self._batches}/{i}" for i in range(batch)]
        texts = [prompt_text(shape.input_tokens, seed) for seed in seeds]
        outcomes = [_outcome(stream) for stream in await self._all(texts, shape)]
        answers = tuple(each for each in outcomes if isinstance(each, Answer))
        refusals = [each for each in outcomes if isinstance(each, Refusal)]
        if not refusals:
            return LoadRun(answers=answers)
        first = min(refusals, key=lambda each: each.status)  # "oom" goes before "rejected"
        return Refusal(
            status=first.status,
            reason=f"{len(refusals)} of {batch} requests: {first.reason}",
        )

    async def _all(self, texts: Sequence[str], shape: Shape) -> list[_Stream]:
        """The first failure ends the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(self._ask(text, shape)) for text in texts]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        return [task.result() for task in asked]

    async def _ask(self, text: str, shape: Shape) -> _Stream:
        request = self._http.build_request("POST", "/generate_stream", json=_body(text, shape))
        started_s = self._clock.now_s()
        try:
            response = await self._http.send(request, stream=True)
            async with aclosing(response):
                events = await self._events(response, shape.output_tokens)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        return _Stream(started_s=started_s, http_status=response.status_code, events=events)

    async def _events(
        self, response: httpx.Response, events_max: int
    ) -> tuple[tuple[float, str], ...]:
        if response.status_code != httpx.codes.OK:
            return ((self._clock.now_s(), (await response.aread()).decode(errors="replace")),)
        incoming, events = _data(response.aiter_lines()), []
        while (data := await self._next(incoming)) is not None:
            events.append((self._clock.now_s(), data))
            if len(events) > events_max:
                raise WireError(f"the gateway sent more than the {events_max} tokens asked for")
        return tuple(events)

    async def _next(self, incoming: AsyncGenerator[str, None]) -> str | None:
        """None at the end of the stream."""
        try:
            async with asyncio.timeout(self._silence_s):
                return await anext(incoming, None)
        except TimeoutError:
            raise self._silent() from None

    def _unreachable(self, error: httpx.HTTPError) -> StageUnavailable:
        what = str(error) or type(error).__name__
        if isinstance(error, httpx.ReadTimeout):
            return self._silent()
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return StageUnavailable(
                f"no gateway answers at {self._http.base_url}: {what}; start one with "
                "`edgeserve up`, or name another with --url"
            )
        return StageUnavailable(
            f"the gateway at {self._http.base_url} broke off: {what}; its log may say why"
        )

    def _silent(self) -> StageUnavailable:
        return StageUnavailable(
            f"the gateway at {self._http.base_url} has sent nothing for {self._silence_s:g} s; "
            "its log and /health say more"
        )


async def _data(lines: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    """Of each event. Comments keep a connection alive, and say nothing."""
    async for line in lines:
        if line.startswith("data:"):
            yield line.removeprefix("data:")


def _body(text: str, shape: Shape) -> dict[str, Any]:
    return {
        "inputs": text,
        "parameters": {
            "truncate": shape.input_tokens,
            "max_new_tokens": shape.output_tokens,
            "ignore_eos": True,
            "speculate": shape.speculate,
            "details": True,
        },
    }


def _outcome(stream: _Stream) -> Answer | Refusal:
    documents = [_parse(data) for _, data in stream.events]
    last = documents[-1] if documents else {}
    if stream.http_status != httpx.codes.OK:
        return _refused(stream.http_status, last)
    if "error" in last:
        kind = named_errors().get(str(last.get("error_type")), EdgeserveError)
        return _refused(kind.http_status, last)
    if "timing" not in last:
        raise WireError("the gateway ended a stream without a receipt; is it edgeserve?")
    return Answer(
        started_s=stream.started_s,
        token_s=tuple(at_s for at_s, _ in stream.events),
        receipt=parse_receipt(last["timing"]),
    )


def _refused(http_status: int, document: dict[str, Any]) -> Refusal:
    """What concerns this batch alone is returned; what concerns every request is raised."""
    reason = f"{http_status}: {document.get('error', 'no reason given')}"
    if "out of memory" in reason.lower():
        return Refusal(status="oom", reason=reason)
    if http_status in (429, 422):
        return Refusal(status="rejected", reason=reason)
    if http_status in (401, 403):
        raise Unauthorized(f"the gateway wants a key: {reason}; set EDGESERVE_API_KEY")
    if http_status < 500:
        raise BadRequest(f"the gateway refuses the probe's request: {reason}")
    raise StageUnavailable(f"the cluster cannot answer: {reason}")


def _parse(text: str) -> dict[str, Any]:
    """Raises WireError if it is not a JSON object."""
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise WireError(
            f"the gateway answered {text[:80]!r}, which is no JSON object; is it edgeserve?"
        )
    return document
