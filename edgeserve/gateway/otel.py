"""A trace of each request for an OpenTelemetry collector: one span for the request, and below it
one for each stage that took part.

All of it is made when the request is over, of what the exchange and the receipts hold, on a thread
of its own: while tokens are generated there is nothing to do. Stages tell durations and no
instants, so their spans are drawn one behind the other, each as long as the stage's share. Refuses
to know prompts and answers: none is ever in a trace.

The SDK is an extra; nothing imports this module but for `--otlp-endpoint`.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers

import edgeserve
from edgeserve.gateway.exchange import Exchange

_log = logging.getLogger(__name__)
NS_PER_MS = 1_000_000
STAGE_KINDS = ("compute_ms", "transfer_ms", "waiting_ms")


def open_tracing(endpoint: str, model: str) -> Tracing:
    """`endpoint` is a collector's address, without the path that traces have there."""
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    return Tracing(BatchSpanProcessor(exporter), model)


class Tracing:
    def __init__(self, processor: SpanProcessor, model: str) -> None:
        about = {"service.name": "edgeserve", "service.version": edgeserve.__version__}
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("edgeserve", edgeserve.__version__)
        self._callers = TraceContextTextMapPropagator()
        self._model = model
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="traces")

    def tell(self, exchange: Exchange) -> None:
        """Returns at once: a long answer's receipt takes longer to make than others may wait."""
        if exchange.is_news:
            self._thread.submit(self._draw, exchange).add_done_callback(_note)

    def close(self) -> None:
        """Sends what is there."""
        self._thread.shutdown()
        self._provider.shutdown()

    def _draw(self, exchange: Exchange) -> None:
        start_ns = exchange.started_unix_ns
        route = _route(exchange)
        span = self._tracer.start_span(
            f"{exchange.method} {route}".rstrip(),
            context=self._callers.extract(Headers(scope=exchange.scope)),
            kind=SpanKind.SERVER,
            start_time=start_ns,
        )
        if span.is_recording():  # the caller may have decided that this one is not
            span.set_attributes(_of_request(exchange, route))
            broke_off = exchange.status == 200 and exchange.failure
            if exchange.status >= 500 or broke_off:
                span.set_status(Status(StatusCode.ERROR, exchange.failure))
            if exchange.runs:
                self._tell_generation(exchange, span)
        span.end(end_time=start_ns + round(exchange.total_s * 1e9))

    def _tell_generation(self, exchange: Exchange, request: Span) -> None:
        receipts = [run.receipt() for run in exchange.runs]
        request.set_attributes(_of_generation(exchange, self._model, receipts[0]))
        under = set_span_in_context(request, Context())
        for answer, receipt in enumerate(receipts):
            at_ns = exchange.started_unix_ns + _ns(receipt["queue_ms"])
            for stage in receipt["stages"]:
                at_ns = self._draw_stage(answer, stage, under, at_ns)

    def _draw_stage(self, answer: int, stage: dict[str, Any], under: Context, start_ns: int) -> int:
        """Returns where it ends."""
        span = self._tracer.start_span(
            f"stage {stage['stage']}",
            context=under,
            start_time=start_ns,
            attributes={"edgeserve.answer": answer, **_of_stage(stage)},
        )
        end_ns = start_ns + _ns(sum(stage[kind] for kind in STAGE_KINDS))
        span.end(end_time=end_ns)
        return end_ns


def _note(drawn: Future[None]) -> None:
    if fault := drawn.exception():
        _log.error("a trace was lost", exc_info=fault)


def _route(exchange: Exchange) -> str:
    """As it is registered; empty for a path that is not. What a client made up names no span."""
    return getattr(exchange.scope.get("route"), "path", "")


def _of_request(exchange: Exchange, route: str) -> dict[str, Any]:
    facts = {
        "http.request.method": exchange.method,
        "http.route": route,
        "http.response.status_code": exchange.status,
        "error.type": exchange.failure,
        "edgeserve.request_id": exchange.request_id,
        "edgeserve.tenant": exchange.tenant_name,
    }
    return {name: value for name, value in facts.items() if value}


def _of_generation(exchange: Exchange, model: str, receipt: dict[str, Any]) -> dict[str, Any]:
    """In the words of OpenTelemetry's conventions for generative models, as far as they go. The
    times are those of the first answer.
    """
    is_chat = exchange.path.endswith(("/chat/completions", "/responses", "/messages"))
    return {
        "gen_ai.operation.name": "chat" if is_chat else "text_completion",
        "gen_ai.provider.name": "edgeserve",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": exchange.runs[0].order.max_new_tokens,
        "gen_ai.request.choice.count": len(exchange.runs),
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.output_tokens,
        "gen_ai.response.finish_reasons": [run.ended_by for run in exchange.runs],
        "edgeserve.queue_ms": receipt["queue_ms"],
        "edgeserve.prefill_ms": receipt["prefill"]["total_ms"],
        "edgeserve.decode_ms": receipt["decode"]["total_ms"],
    }


def _of_stage(stage: dict[str, Any]) -> dict[str, Any]:
    start, end = stage["layers"]
    return {
        "edgeserve.stage": stage["stage"],
        "edgeserve.worker": stage["worker"],
        "edgeserve.layers": f"[{start}, {end})",
        **{f"edgeserve.{kind}": stage[kind] for kind in STAGE_KINDS},
    }


def _ns(milliseconds: float) -> int:
    return round(milliseconds * NS_PER_MS)
