"""Three paced cards on one machine: the plan of the real ones, their times, and labels everywhere.

The gateways, the workers and the wire are the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from edgeserve.launch.processes import Child
from tests.cluster.processes import START_S, announced, exit_codes, start_gateway, start_worker

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

SIMULATION = "paced simulation: rtx-3060"
PACED = ("--pace", "rtx-3060", "--memory", "16GB")
RSS_BYTES_MAX = 400 * 10**6


@pytest.fixture(scope="module")
def paced() -> Iterator[tuple[list[Child], str]]:
    """Three workers, and the URL of their gateway."""
    workers = [start_worker(flags=PACED) for _ in range(3)]
    gateway = start_gateway([announced(each) for each in workers], "llama-2-13b", "--dtype", "fp16")
    yield workers, gateway.wait_until_announced(START_S)
    assert exit_codes([gateway, *workers]) == [0] * 4


def cluster_of(url: str) -> Any:
    return httpx.get(f"{url}/v1/cluster").json()


def generate(url: str, **wishes: Any) -> Any:
    body = {"inputs": "hello", "parameters": {"details": True, **wishes}}
    return httpx.post(f"{url}/generate", json=body, timeout=60).json()


def test_a_13b_model_is_cut_as_for_three_cards_and_labelled(
    paced: tuple[list[Child], str],
) -> None:
    cluster = cluster_of(paced[1])

    assert [end - start for start, end in (s["layers"] for s in cluster["stages"])] == [13, 14, 13]
    assert cluster["pages"]["total"] == 678
    assert cluster["simulation"] == SIMULATION
    assert {stage["simulation"] for stage in cluster["stages"]} == {SIMULATION}
    assert {stage["device"] for stage in cluster["stages"]} == {"paced"}


def test_a_token_takes_what_the_roofline_says_and_the_receipt_adds_up(
    paced: tuple[list[Child], str],
) -> None:
    answer = generate(paced[1], max_new_tokens=6)

    assert answer["simulation"] == SIMULATION
    assert answer["weights"] == "random"
    assert answer["details"]["finish_reason"] == "length"
    for token in answer["timing"]["per_token"]:
        parts = [token[f"{kind}_ms"] for kind in ("compute", "transfer", "waiting", "other")]
        assert token["compute_ms"] == pytest.approx(84.0, abs=1.0)
        assert sum(parts) == pytest.approx(token["total_ms"], rel=0.01)


def test_the_same_seed_gives_the_same_tokens(paced: tuple[list[Child], str]) -> None:
    def ids(seed: int) -> list[int]:
        answer = generate(paced[1], max_new_tokens=4, do_sample=True, seed=seed)
        return [each["id"] for each in answer["details"]["tokens"]]

    assert ids(3) == ids(3) != ids(4)


def test_a_paced_worker_holds_no_weights(paced: tuple[list[Child], str]) -> None:
    for worker in paced[0]:
        assert psutil.Process(worker.process.pid).memory_info().rss < RSS_BYTES_MAX


def test_one_paced_stage_among_real_ones_labels_the_whole_cluster() -> None:
    workers = [start_worker(), start_worker(flags=PACED)]
    gateway = start_gateway([announced(each) for each in workers], "demo")
    url = gateway.wait_until_announced(START_S)

    cluster, answer = cluster_of(url), generate(url, max_new_tokens=2)

    assert [stage["simulation"] for stage in cluster["stages"]] == [None, SIMULATION]
    assert cluster["simulation"] == answer["simulation"] == f"{SIMULATION} (stage 1 only)"
    assert exit_codes([gateway, *workers]) == [0] * 3
