"""A trace of each request for an OpenTelemetry collector: one span for the request, and below it
one for each stage that took part.

All of it is made when the request is over, of what its context and its receipts hold, on a thread
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
from edgeserve.gateway.edge.request_context import RequestContext

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

    def tell(self, context: RequestContext) -> None:
        """Returns at once: a long answer's receipt takes longer to make than others may wait."""
        if context.is_news:
            self._thread.submit(self._draw, context).add_done_callback(_note)

    def close(self) -> None:
        """Sends what is there."""
        self._thread.shutdown()
        self._provider.shutdown()

    def _draw(self, context: RequestContext) -> None:
        start_ns = context.started_unix_ns
        route = _route(context)
        span = self._tracer.start_span(
            f"{context.method} {route}".rstrip(),
            context=self._callers.extract(Headers(scope=context.scope)),
            kind=SpanKind.SERVER,
            start_time=start_ns,
        )
        if span.is_recording():  # the caller may have decided that this one is not
            span.set_attributes(_of_request(context, route))
            broke_off = context.status == 200 and context.failure
            if context.status >= 500 or broke_off:
                span.set_status(Status(StatusCode.ERROR, context.failure))
            if context.runs:
                self._tell_generation(context, span)
        span.end(end_time=start_ns + round(context.total_s * 1e9))

    def _tell_generation(self, context: RequestContext, request: Span) -> None:
        receipts = [run.receipt() for run in context.runs]
        request.set_attributes(_of_generation(context, self._model, receipts[0]))
        under = set_span_in_context(request, Context())
        for answer, receipt in enumerate(receipts):
            at_ns = context.started_unix_ns + _ns(receipt["queue_ms"])
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


def _route(context: RequestContext) -> str:
    """As it is registered; empty for a path that is not. What a client made up names no span."""
    return getattr(context.scope.get("route"), "path", "")


def _of_request(context: RequestContext, route: str) -> dict[str, Any]:
    facts = {
        "http.request.method": context.method,
        "http.route": route,
        "http.response.status_code": context.status,
        "error.type": context.failure,
        "edgeserve.request_id": context.request_id,
        "edgeserve.tenant": context.tenant_name,
    }
    return {name: value for name, value in facts.items() if value}


def _of_generation(context: RequestContext, model: str, receipt: dict[str, Any]) -> dict[str, Any]:
    """In the words of OpenTelemetry's conventions for generative models, as far as they go. The
    times are those of the first answer.
    """
    is_chat = context.path.endswith(("/chat/completions", "/responses", "/messages"))
    return {
        "gen_ai.operation.name": "chat" if is_chat else "text_completion",
        "gen_ai.provider.name": "edgeserve",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": context.runs[0].order.max_new_tokens,
        "gen_ai.request.choice.count": len(context.runs),
        "gen_ai.usage.input_tokens": context.prompt_tokens,
        "gen_ai.usage.output_tokens": context.output_tokens,
        "gen_ai.response.finish_reasons": [run.ended_by for run in context.runs],
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
