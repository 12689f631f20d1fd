"""What a trace says of a request, and that it arrives; nothing of what was asked and answered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest

from edgeserve.clock import MonotonicClock, unix_ns
from edgeserve.errors import BadSettings, StageUnavailable
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.request_context import RequestContext
from edgeserve.gateway.serve import _traced
from edgeserve.testing import COMPUTE_SHARE, FakeEngine
from tests.gateway.conftest import key_ring

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from edgeserve.gateway.observe.otel import Tracing, open_tracing

Told = Callable[[], tuple[ReadableSpan, ...]]
BODY = {"inputs": "abc", "parameters": {"max_new_tokens": 4}}
TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    return Tracing(SimpleSpanProcessor(exporter), "fake")


@pytest.fixture
def told(tracing: Tracing, exporter: InMemorySpanExporter) -> Told:
    """All spans, once all are made."""

    def told() -> tuple[ReadableSpan, ...]:
        tracing.close()
        return exporter.get_finished_spans()

    return told


@pytest.fixture
def traced(state: AppState, tracing: Tracing) -> httpx.AsyncClient:
    return client_of(state, tracing)


def client_of(state: AppState, tracing: Tracing) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(state, [tracing.tell]))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def spans(told: Told) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The request's, and those of stages."""
    *stages, request = told()
    return request, stages


def length_ms(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e6


async def test_a_request_is_a_span_and_its_stages_lie_below_it(
    state: AppState, tracing: Tracing, told: Told
) -> None:
    client = client_of(replace(state, keys=key_ring(state.clock, {"alice": "k"})), tracing)
    headers = {"authorization": "Bearer k", "x-request-id": "abc"}
    before_ns = unix_ns()
    await client.post("/generate", json=BODY, headers=headers)
    request, stages = spans(told)
    assert (request.name, request.kind, request.parent) == ("POST /generate", SpanKind.SERVER, None)
    assert dict(request.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/generate",
        "http.response.status_code": 200,
        "edgeserve.request_id": "abc",
        "edgeserve.tenant": "alice",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "edgeserve",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.choice.count": 1,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ("length",),
        "edgeserve.queue_ms": 0.0,
        "edgeserve.prefill_ms": 10.0,
        "edgeserve.decode_ms": 30.0,
        #     four tokens, for each of which the fake's clock moves by 10 ms
    }
    assert length_ms(request) == pytest.approx(40)
    assert before_ns <= (request.start_time or 0) <= unix_ns()
    assert request.resource.attributes["service.name"] == "edgeserve"
    assert [stage.name for stage in stages] == ["stage 0", "stage 1"]
    assert all(stage.parent == request.context for stage in stages)
    assert stages[1].start_time == stages[0].end_time
    assert [length_ms(stage) for stage in stages] == pytest.approx([20, 20])
    shown = dict(stages[1].attributes or {})
    assert shown.pop("edgeserve.compute_ms") == pytest.approx(20 * COMPUTE_SHARE)
    assert shown.pop("edgeserve.transfer_ms") == pytest.approx(20 * (1 - COMPUTE_SHARE))
    assert shown == {
        "edgeserve.answer": 0,
        "edgeserve.stage": 1,
        "edgeserve.worker": "127.0.0.1:50052",
        "edgeserve.layers": "[4, 8)",
        "edgeserve.waiting_ms": 0.0,
    }


@pytest.mark.parametrize(
    ("traceparent", "parent"),
    [
        (f"00-{TRACE}-{CALLER}-01", CALLER),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        ("nonsense", None),
    ],
)
async def test_a_callers_trace_goes_on_if_it_is_one(
    traceparent: str,
    parent: str | None,
    traced: httpx.AsyncClient,
    told: Told,
) -> None:
    await traced.post("/generate", json=BODY, headers={"traceparent": traceparent})
    request, stages = spans(told)
    assert request.context is not None
    if parent is None:
        assert request.parent is None
        assert f"{request.context.trace_id:032x}" != TRACE
    else:
        assert request.parent is not None
        assert f"{request.parent.span_id:016x}" == parent
        assert {f"{s.context.trace_id:032x}" for s in (request, *stages) if s.context} == {TRACE}


async def test_what_the_caller_does_not_sample_is_not_sent(
    traced: httpx.AsyncClient, told: Told
) -> None:
    await traced.post("/generate", json=BODY, headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    assert told() == ()


async def test_each_of_several_answers_has_its_stages(
    traced: httpx.AsyncClient, told: Told
) -> None:
    chunks = {"prompt": "abc", "n": 2, "max_tokens": 2, "stream": True}
    await traced.post("/v1/completions", json=chunks)
    request, stages = spans(told)
    assert request.attributes is not None
    assert request.attributes["gen_ai.response.finish_reasons"] == ("length", "length")
    assert request.attributes["gen_ai.request.choice.count"] == 2
    answers = [(stage.attributes or {})["edgeserve.answer"] for stage in stages]
    assert answers == [0, 0, 1, 1]


async def test_what_was_refused_has_a_span_without_stages(
    traced: httpx.AsyncClient, told: Told, engine: FakeEngine
) -> None:
    engine.lose_stage(1)
    await traced.post("/generate", json=BODY)
    await traced.post("/generate", json={"inputs": 3})
    await traced.get("/made/up")
    lost, malformed, nowhere = told()
    assert lost.status.status_code is StatusCode.ERROR
    assert (lost.attributes or {})["error.type"] == "stage_unavailable"
    assert malformed.status.status_code is StatusCode.UNSET, "that is the caller's fault"
    assert (malformed.attributes or {})["error.type"] == "validation"
    assert nowhere.name == "GET", "what a client made up names no span"


async def test_a_stream_that_breaks_off_says_why(
    traced: httpx.AsyncClient, told: Told, engine: FakeEngine
) -> None:
    engine.fail(StageUnavailable("gone"), after_tokens=2)
    await traced.post("/generate_stream", json=BODY)
    request, stages = spans(told)
    assert request.attributes is not None
    assert request.attributes["gen_ai.response.finish_reasons"] == ("stage_unavailable",)
    assert request.attributes["gen_ai.usage.output_tokens"] == 2
    assert request.attributes["error.type"] == "stage_unavailable"
    assert request.status.status_code is StatusCode.ERROR, "though it began with 200"
    assert len(stages) == 2


async def test_who_only_looks_leaves_no_trace(traced: httpx.AsyncClient, told: Told) -> None:
    await traced.get("/health")
    assert told() == ()


async def test_neither_prompts_nor_answers_nor_keys_are_in_a_trace(
    state: AppState, tracing: Tracing, told: Told
) -> None:
    client = client_of(replace(state, keys=key_ring(state.clock, {"alice": "sesame"})), tracing)
    body = {"inputs": "a secret wish", "parameters": {"max_new_tokens": 13}}
    answer = await client.post("/generate", json=body, headers={"authorization": "Bearer sesame"})
    assert answer.json()["generated_text"] == "a secret wish"
    document = "".join(span.to_json() for span in told())
    assert "POST /generate" in document
    assert "secret" not in document
    assert "sesame" not in document


# -- the way to a collector


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, asyncio.Queue[tuple[str, bytes]]]]:
    """Its URL, and the path and body of what it is sent."""
    received: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].split()[0])
        received.put_nowait((head.split()[1], await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received


@pytest.mark.slow
async def test_a_trace_arrives_at_a_collector(state: AppState) -> None:
    async with collector() as (url, received), asyncio.timeout(10):
        tracing = open_tracing(url, "fake")
        await client_of(state, tracing).post("/generate", json=BODY)
        await asyncio.to_thread(tracing.close)
        path, body = await received.get()
    (of_service,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = [span.name for scope in of_service.scope_spans for span in scope.spans]
    assert path == "/v1/traces"
    assert names == ["stage 0", "stage 1", "POST /generate"]


@pytest.mark.slow
async def test_a_collector_that_is_not_there_holds_up_neither_answers_nor_the_end(
    state: AppState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")  # in seconds; its own is 10
    clock = MonotonicClock()
    tracing = open_tracing("http://127.0.0.1:9", "fake")
    begun_s = clock.now_s()
    answer = await client_of(state, tracing).post("/generate", json=BODY)
    assert answer.status_code == 200
    assert clock.now_s() - begun_s < 1
    await asyncio.to_thread(tracing.close)
    assert clock.now_s() - begun_s < 15


async def test_a_trace_that_cannot_be_made_is_logged(
    state: AppState, tracing: Tracing, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    def tell_broken(context: RequestContext) -> None:
        context.scope["headers"] = None
        tracing.tell(context)

    transport = httpx.ASGITransport(create_app(state, [tell_broken]))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        assert (await client.post("/generate", json=BODY)).status_code == 200
    assert told() == ()
    assert "a trace was lost" in caplog.text


# -- without the extra


def test_a_gateway_that_lacks_the_extra_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "edgeserve.gateway.observe.otel", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadSettings, match=r"pip install 'edgeserve\[otel\]'"):
        _traced("http://127.0.0.1:4318", "fake").__enter__()


def test_without_a_collector_nothing_is_told() -> None:
    with _traced("", "fake") as tell:
        assert tell == ()
