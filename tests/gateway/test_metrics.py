"""/metrics is what Prometheus can read, is named as its users expect, and says what happened."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.loop_lag import LoopLag
from edgeserve.gateway.observe.metrics import (
    PREFIX,
    exposition,
    loop_metrics,
    pipeline_metrics,
    tenant_metrics,
)
from edgeserve.pipeline.generation import Status
from edgeserve.testing import FakeEngine
from tests.gateway.conftest import key_ring
from tests.gateway.promlint import complaints

ROOT = Path(__file__).parents[2]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
PROMTOOL = shutil.which("promtool")

Figures = dict[str, float]


async def scrape(client: httpx.AsyncClient) -> str:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


async def figures(client: httpx.AsyncClient) -> Figures:
    """By name and labels, as a query would have them: 'frames_total', 'x{stage=0}'."""
    families = text_string_to_metric_families(await scrape(client))
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k != "worker")
        name = sample.name.removeprefix(PREFIX)
        found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


async def generate(client: httpx.AsyncClient, tokens: int, **parameters: object) -> None:
    body = {"inputs": "abc", "parameters": {"max_new_tokens": tokens, **parameters}}
    await client.post("/generate", json=body)


# -- the format


async def test_prometheus_can_read_it(client: httpx.AsyncClient) -> None:
    await generate(client, 5)
    text = await scrape(client)
    families = list(text_string_to_metric_families(text))
    assert len(families) > 20
    for family in families:
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type in SUFFIXES, f"{family.name} has TYPE {family.type}"
        assert family.samples, f"{family.name} says nothing"
    named = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(named) == len(set(named)) == len(families)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5",
        "text/plain;version=1.0.0;escaping=dots",
    ],
)
async def test_names_are_the_same_whatever_format_is_preferred(
    accept: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert answer.text == await scrape(client)


async def test_names_labels_and_help_are_as_promtool_wants_them(
    state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]
) -> None:
    text = await whole(state, client_for)
    assert complaints(text) == []
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(rf"{PREFIX}[a-z][a-z0-9_]*", family.name)
        assert family.type != "histogram" or family.name.endswith("_seconds")


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian's package prometheus)")
async def test_promtool_itself_has_no_complaint(
    state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]
) -> None:
    text = await whole(state, client_for)
    checked = promtool("metrics", given=text)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    bad = text.replace("edgeserve_frames_total", "edgeserve:frames_total")
    assert "should not contain ':'" in promtool("metrics", given=bad).stderr
    rules = promtool("rules", str(ROOT / "deploy" / "metrics" / "rules.yml"))
    assert "SUCCESS: 3 rules found" in rules.stdout


def promtool(what: str, *files: str, given: str = "") -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    return subprocess.run(
        [PROMTOOL, "check", what, *files], input=given, capture_output=True, text=True, check=False
    )


async def whole(state: AppState, client_for: Callable[[AppState], httpx.AsyncClient]) -> str:
    """Everything there is, the figures of keys included, after an answer."""
    client = client_for(replace(state, keys=key_ring(state.clock, {"me": "open"})))
    client.headers["authorization"] = "Bearer open"
    await generate(client, 5)
    return await scrape(client)


BAD_EXPOSITIONS = {
    "a colon": "# HELP a:b_total x\n# TYPE a:b_total counter\na:b_total 1\n",
    "help text": "# TYPE requests_total counter\nrequests_total 1\n",
    "ends in _total": "# HELP ab x\n# TYPE ab counter\nab 1\n",
    "only a counter": "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n",
    "gauge is a type": "# HELP a_gauge x\n# TYPE a_gauge gauge\na_gauge 1\n",
    "microbytes is no": "# HELP a_microbytes x\n# TYPE a_microbytes gauge\na_microbytes 1\n",
    "ms is no": "# HELP a_ms x\n# TYPE a_ms gauge\na_ms 1\n",
    "with underscores": "# HELP requestTime x\n# TYPE requestTime gauge\nrequestTime 1\n",
    "le is no label": '# HELP a x\n# TYPE a gauge\na{le="1"} 1\n',
    "does not end in _sum": "# HELP a_sum x\n# TYPE a_sum gauge\na_sum 1\n",
    "two of it": "# HELP a x\n# TYPE a gauge\na 1\n# HELP a x\n# TYPE a gauge\na 2\n",
}


@pytest.mark.parametrize(("words", "exposition"), BAD_EXPOSITIONS.items())
def test_what_promtool_complains_of_is_found(words: str, exposition: str) -> None:
    assert any(words in each for each in complaints(exposition)), complaints(exposition)


@pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool (Debian's package prometheus)")
@pytest.mark.parametrize("exposition", BAD_EXPOSITIONS.values(), ids=BAD_EXPOSITIONS)
def test_promtool_complains_of_the_same(exposition: str) -> None:
    assert promtool("metrics", given=exposition).returncode != 0


async def test_the_text_says_what_the_librarys_own_would(families: list[Metric]) -> None:
    odd = GaugeMetricFamily("odd", "x", labels=("tenant",))
    odd.add_metric(('a "quoted" \\ name\nof two lines',), 1e21)
    registry = CollectorRegistry()
    registry.register(Fixed([*families, odd]))
    library = generate_latest(registry).decode()
    own = exposition([*families, odd])
    assert len(own.splitlines()) == len(library.splitlines()) > 300
    both = [list(text_string_to_metric_families(text)) for text in (own, library)]
    assert both[0] == both[1]


class Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def test_buckets_grow_up_to_the_count(client: httpx.AsyncClient) -> None:
    await generate(client, 5)
    for family in text_string_to_metric_families(await scrape(client)):
        if family.type != "histogram":
            continue
        for labels in {_without_le(sample.labels) for sample in family.samples}:
            own = [each for each in family.samples if _without_le(each.labels) == labels]
            buckets = [each for each in own if each.name.endswith("_bucket")]
            bounds = [float(each.labels["le"]) for each in buckets]
            counts = [each.value for each in buckets]
            (total,) = [each.value for each in own if each.name.endswith("_count")]
            assert bounds == sorted(bounds)
            assert counts == sorted(counts)
            assert (bounds[-1], counts[-1]) == (float("inf"), total)


def _without_le(labels: dict[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in labels.items() if name != "le")


# -- the figures


async def test_an_answer_is_in_the_figures_once(client: httpx.AsyncClient) -> None:
    """The fake has two stages, takes 10 ms for a token, and computes in 80 % of them."""
    before = await figures(client)
    await generate(client, 5)
    after = await figures(client)
    assert before["generation_tokens_total"] == before["frames_total"] == 0
    assert after["generation_tokens_total"] == after["frames_total"] == 5
    assert after["prompt_tokens_total"] == after["prefix_cache_queries_total"] == 3
    assert after["request_success_total{finished_reason=length}"] == 1
    assert after["time_to_first_token_seconds_count"] == 1
    assert after["time_to_first_token_seconds_sum"] == pytest.approx(0.01)
    assert after["inter_token_latency_seconds_count"] == 4
    assert after["inter_token_latency_seconds_sum"] == pytest.approx(0.04)
    assert after["request_time_per_output_token_seconds_sum"] == pytest.approx(0.01)
    assert after["e2e_request_latency_seconds_sum"] == pytest.approx(0.05)
    assert after["e2e_request_latency_seconds_count"] == 1
    for stage in (0, 1):
        assert after[f"stage_compute_seconds_count{{stage={stage}}}"] == 5
        assert after[f"stage_compute_seconds_sum{{stage={stage}}}"] == pytest.approx(0.02)
        assert after[f"stage_transfer_seconds_sum{{stage={stage}}}"] == pytest.approx(0.005)
        assert after[f"stage_waiting_seconds_sum{{stage={stage}}}"] == 0


async def test_a_stop_string_is_an_answer_and_a_refusal_is_not(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await generate(client, 9, stop=["b"])
    await engine.wait_for_cancelled(1)
    engine.overload()
    await generate(client, 9)
    found = await figures(client)
    assert found["request_success_total{finished_reason=stop}"] == 1
    assert found["request_success_total{finished_reason=abort}"] == 0
    assert found["request_failure_total{error_type=overloaded}"] == 1
    assert found["request_success_total{finished_reason=length}"] == 0


async def test_what_runs_now_is_shown(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.hold()
    held = asyncio.create_task(generate(client, 5))
    await engine.wait_for_orders(1)
    running = await figures(client)
    engine.release()
    await held
    idle = await figures(client)
    assert (running["num_requests_running"], idle["num_requests_running"]) == (1, 0)
    assert (running["kv_cache_usage_perc"], idle["kv_cache_usage_perc"]) == (0.01, 0)
    assert running["pipeline_ready"] == 1


async def test_a_lost_stage_is_shown(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.observer.stages[1].lost += 1
    engine.set_status(Status(phase="stage_lost", reason="stage 1 is lost", stage=1))
    found = await figures(client)
    assert found["pipeline_ready"] == 0
    assert found["stage_lost_total{stage=0}"] == 0
    assert found["stage_lost_total{stage=1}"] == 1


async def test_a_straggler_is_shown(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    stragglers = engine.observer.stragglers
    for step in range(1000):
        slow_s = 0.013 if step > 500 else 0.01
        stragglers.measured(8, (0.01, slow_s), step * 0.02)
    found = await figures(client)
    assert found["stage_slowdown_ratio{stage=0}"] == 0
    assert found["stage_slowdown_ratio{stage=1}"] == pytest.approx(0.3)


def test_before_there_is_a_plan_it_says_that_nothing_is_ready() -> None:
    (ready,) = pipeline_metrics(Status(phase="starting"), None)
    assert [sample.value for sample in ready.samples] == [0.0]


# -- what the pages promise


@pytest.fixture
async def families() -> list[Metric]:
    clock = ManualClock()
    engine = FakeEngine(clock)
    return [
        *loop_metrics(LoopLag()),
        *pipeline_metrics(engine.status(), await engine.seen()),
        *tenant_metrics(key_ring(clock, {"me": "open sesame"})),
    ]


def _row(family: Metric) -> str:
    total = "_total" if family.type == "counter" else ""
    labels = {name for sample in family.samples for name in sample.labels} - {"le"}
    shown = ", ".join(f"`{name}`" for name in sorted(labels))
    return f"| `{family.name}{total}` | {family.type} | {shown} | {family.documentation} |"


def test_every_metric_is_documented(families: list[Metric]) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = [line for line in page.splitlines() if line.startswith(f"| `{PREFIX}")]
    expected = [_row(family) for family in families]
    assert documented == expected, "\n".join(["paste this:", *expected])


def test_the_board_and_the_rules_ask_for_metrics_that_exist(families: list[Metric]) -> None:
    known = {f"{each.name}{suffix}" for each in families for suffix in SUFFIXES[each.type]}
    files = [path for path in (ROOT / "deploy" / "metrics").rglob("*") if path.is_file()]
    asked = {
        name
        for path in files
        for name in re.findall(rf"\b{PREFIX}\w+", path.read_text(encoding="utf-8"))
    }
    assert len(asked) > 10
    assert asked - known == set()
