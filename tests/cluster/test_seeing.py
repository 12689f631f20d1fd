"""/metrics, /trace and /v1/cluster of a gateway process on three worker processes."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeserve.clock import ManualClock
from edgeserve.config import Address
from edgeserve.testing import FakeEngine
from tests.cluster.conftest import StartGateway, TinyModel
from tests.cluster.processes import START_S
from tests.timing.trace_schema import check_trace

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]
TOKENS = 40


def test_what_was_generated_is_seen_at_every_stage(
    workers: tuple[Address, ...], talker: TinyModel, gateway: StartGateway
) -> None:
    url = gateway(workers, talker.folder, "--speculate", "off").wait_until_announced(START_S)
    wishes = {"max_new_tokens": TOKENS, "ignore_eos": True}
    body = {"inputs": "once upon a time", "parameters": wishes}
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        receipt = client.post("/generate", json=body).json()["timing"]
        metrics = client.get("/metrics").text
        trace = client.get("/trace").json()["traceEvents"]
        cluster = client.get("/v1/cluster").json()

    samples = [s for f in text_string_to_metric_families(metrics) for s in f.samples]
    by_stage = {
        each.labels["worker"]: each.value
        for each in samples
        if each.name == "edgeserve_stage_compute_seconds_sum"
    }
    assert list(by_stage) == [str(each) for each in workers]
    booked_s = [each["compute_ms"] / 1e3 for each in receipt["stages"]]
    assert list(by_stage.values()) == pytest.approx(booked_s, rel=0.01)
    #      one request: what the metrics have of it is what its receipt says
    values = {each.name: each.value for each in samples if not each.labels}
    assert values["edgeserve_generation_tokens_total"] == TOKENS
    assert values["edgeserve_pipeline_ready"] == 1

    check_trace(trace, rows=4)
    drawn_ms = [sum(e["dur"] for e in trace if e["tid"] == row and "dur" in e) for row in (1, 2, 3)]
    assert [each / 1e6 for each in drawn_ms] == pytest.approx(booked_s, rel=0.05)

    assert [each["straggling"] for each in cluster["stages"]] == [None, None, None]
    assert cluster["better_layers"] is None
    assert cluster["generated_tokens"] == TOKENS
    assert [each["waiting_ms"] >= 0 for each in cluster["stages"]] == [True] * 3
    fake = asyncio.run(FakeEngine(ManualClock()).cluster())
    assert list(cluster) == list(fake), "the fake has every key of the real one"
    assert {*cluster["stages"][0]} == {*fake["stages"][0]}
