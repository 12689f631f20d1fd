"""GET /metrics: what the pipeline has seen, in Prometheus' words.

Nothing is counted here. The pipeline's observer has the figures; they are put into vLLM's names
when somebody asks, under `edgeserve_` where vLLM has `vllm:`: a colon is for what a server of
Prometheus records by itself, and its `promtool` complains of it anywhere else. docs/metrics.md
lists them, and a test compares.

Refuses to know of single requests: no label holds anything that a client sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.keys import KeyRing
from edgeserve.gateway.edge.loop_lag import LoopLag
from edgeserve.gateway.edge.openapi import STRING, TEXT, documented
from edgeserve.pipeline.generation import Seen, Status
from edgeserve.timing.histogram import Histogram
from edgeserve.timing.observer import RequestRecord, StageRecord
from edgeserve.timing.straggler import Straggling

PREFIX = "edgeserve_"
STAGE_LABELS = ("stage", "worker")


def metrics_routes(state: AppState) -> APIRouter:
    router = APIRouter(tags=["cluster"])

    said = documented("/metrics", (), {TEXT: STRING})

    @router.get("/metrics", response_class=PlainTextResponse, responses=said)
    async def metrics() -> Response:
        """Prometheus' text format."""
        seen = await state.engine.seen()
        families = (
            *loop_metrics(state.loop_lag),
            *pipeline_metrics(state.engine.status(), seen),
            *tenant_metrics(state.keys),
        )
        # Whatever else is preferred: every server of Prometheus and every router reads this format.
        return Response(exposition(families), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router


def exposition(families: Iterable[Metric]) -> str:
    """Prometheus' text format, version 0.0.4.

    The library's own writing takes three times as long, on the loop that hands out tokens.
    """
    lines: list[str] = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        lines += (f"# HELP {name} {family.documentation}", f"# TYPE {name} {family.type}")
        for sample in family.samples:
            pairs = [f'{label}="{_escaped(value)}"' for label, value in sample.labels.items()]
            labels = f"{{{','.join(pairs)}}}" if pairs else ""
            lines.append(f"{sample.name}{labels} {float(sample.value)!r}")
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def loop_metrics(loop_lag: LoopLag) -> Iterator[Metric]:
    """Of the process that answers, whether or not there is a pipeline."""
    yield _histogram(
        "event_loop_lag_seconds", "How late the gateway's event loop is.",
        {(): loop_lag.histogram}, (),
    )  # fmt: skip


def pipeline_metrics(status: Status, seen: Seen | None) -> Iterator[Metric]:
    yield _gauge("pipeline_ready", "1 if a token can be produced now, else 0.", status.is_ready)
    if seen is None:
        return
    yield from _request_times(seen.observer.requests)
    yield from _requests(seen)
    yield from _pipeline(seen)
    yield from _stage_times(seen.observer.stages)
    yield from _stage_states(seen)


def tenant_metrics(keys: KeyRing) -> Iterator[Metric]:
    """What each key is charged with. Its name is the operator's, and there are as many as keys."""
    quotas = {tenant.name: tenant.quota for tenant in keys.tenants}
    if not quotas:
        return
    in_use = GaugeMetricFamily(
        PREFIX + "tenant_num_sequences", "Of the key: that run or wait now.", labels=("tenant",)
    )
    for name, quota in quotas.items():
        in_use.add_metric((name,), quota.in_use)
    yield in_use
    yield _counters(
        "tenant_tokens", "Of the key: tokens of prompts and answers.", "tenant",
        {name: quota.tokens_used for name, quota in quotas.items()},
    )  # fmt: skip
    yield _counters(
        "tenant_refused", "Of the key: requests beyond its limits.", "tenant",
        {name: quota.refused for name, quota in quotas.items()},
    )  # fmt: skip


def _request_times(requests: RequestRecord) -> Iterator[Metric]:
    for name, meaning, histogram in (
        ("e2e_request_latency", "From a request's arrival to its last token.", requests.total),
        (
            "time_to_first_token",
            "From a request's arrival to its first token.",
            requests.first_token,
        ),
        (
            "inter_token_latency",
            "Between two laps that brought a request tokens.",
            requests.between_tokens,
        ),
        (
            "request_time_per_output_token",
            "From a request's first token to its last, by the tokens after the first.",
            requests.per_token,
        ),
        ("request_queue_time", "In the scheduler's queue.", requests.queue),
        ("request_prefill_time", "From the queue to the first token.", requests.prefill),
        ("request_decode_time", "From the first token to the last.", requests.decode),
    ):
        yield _histogram(f"{name}_seconds", meaning, {(): histogram}, ())


def _requests(seen: Seen) -> Iterator[Metric]:
    requests, now = seen.observer.requests, seen.statistics
    yield _counter("prompt_tokens", "Prompt tokens of admitted requests.", now.prompt_tokens)
    yield _counter("generation_tokens", "Tokens generated.", requests.tokens)
    yield _counter(
        "prefix_cache_queries", "Prompt tokens looked up in kept pages.", now.prompt_tokens
    )
    yield _counter(
        "prefix_cache_hits", "Prompt tokens found in kept pages, and not computed.",
        now.cached_tokens,
    )  # fmt: skip
    yield _counters(
        "request_success", "Requests that ended, by vLLM's reason: stop, length or abort.",
        "finished_reason", requests.ends,
    )  # fmt: skip
    yield _counters(
        "request_failure", "Requests that the pipeline refused or ended with an error.",
        "error_type", requests.errors,
    )  # fmt: skip
    yield _gauge("num_requests_running", "Requests that compute now.", now.running)
    yield _gauge("num_requests_waiting", "Requests that wait for pages now.", now.waiting)


def _pipeline(seen: Seen) -> Iterator[Metric]:
    now = seen.statistics
    used = now.pages_in_use / seen.pages if seen.pages else 0.0
    yield _gauge("kv_cache_usage_perc", "Share of the pages that is in use, 0 to 1.", used)
    yield _gauge("num_frames_in_flight", "Frames on their way now.", now.frames_in_flight)
    yield _counter("frames", "Frames that went through all stages.", seen.observer.frames)


def _stage_times(stages: Sequence[StageRecord]) -> Iterator[Metric]:
    for kind, meaning in (
        ("compute", "Of a hop: time on the stage's device."),
        ("transfer", "Of a hop: the round trip without what the worker accounts for."),
        ("waiting", "Of a hop: behind other frames at the stage."),
    ):
        histograms: dict[tuple[str, ...], Histogram] = {
            _labels(stage): getattr(stage, kind) for stage in stages
        }
        yield _histogram(f"stage_{kind}_seconds", meaning, histograms, STAGE_LABELS)


def _stage_states(seen: Seen) -> Iterator[Metric]:
    lost = CounterMetricFamily(
        PREFIX + "stage_lost", "How often the stage was lost.", labels=STAGE_LABELS
    )
    slowdown = GaugeMetricFamily(
        PREFIX + "stage_slowdown_ratio",
        "By how much a straggling stage exceeds its own median; 0 for any other.",
        labels=STAGE_LABELS,
    )
    for stage, straggling in zip(seen.observer.stages, seen.observer.stragglers.now, strict=True):
        lost.add_metric(_labels(stage), stage.lost)
        slowdown.add_metric(_labels(stage), _slowdown(straggling))
    yield lost
    yield slowdown


def _slowdown(straggling: Straggling | None) -> float:
    return straggling.slowdown if straggling else 0.0


def _labels(stage: StageRecord) -> tuple[str, str]:
    return str(stage.label.stage), stage.label.worker


# -- families


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, meaning, value=float(value))


def _counter(name: str, meaning: str, value: int) -> Metric:
    """The library adds `_total`."""
    return CounterMetricFamily(PREFIX + name, meaning, value=value)


def _counters(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, meaning, labels=(label,))
    for each, value in tuple(values.items()):
        family.add_metric((each,), value)
    return family


def _histogram(
    name: str,
    meaning: str,
    histograms: Mapping[tuple[str, ...], Histogram],
    label_names: tuple[str, ...],
) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, meaning, labels=label_names)
    for labels, histogram in histograms.items():
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, histogram.at_most(), strict=True))
        family.add_metric(labels, buckets, sum_value=histogram.sum)
    return family
