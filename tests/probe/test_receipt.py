"""Receipts are read strictly, and are not believed until they add up."""

from __future__ import annotations

from typing import Any

import pytest

from edgeserve.errors import WireError
from edgeserve.frames.stage_time import StageTime
from edgeserve.probe.cluster import parse_cluster
from edgeserve.probe.prompts import prompt_text
from edgeserve.probe.receipt import mean_times, parse_receipt
from edgeserve.timing.hop import Hop, Lap
from edgeserve.timing.ledger import Ledger, StageLabel
from tests.probe.fake_gateway import cluster_document, receipt, times


def test_a_receipt_is_read() -> None:
    read = parse_receipt(receipt(32, 4))

    assert (read.prefill_tokens, read.decode_tokens) == (32, 3)
    assert read.total_ms == 40.0
    assert read.decode.compute_ms == 27.0
    assert [each.compute_ms for each in read.stages] == [16.0, 20.0]
    assert len(read.per_token) == 4


def test_what_the_gateway_books_is_what_the_probe_reads() -> None:
    """The ledger's own receipt of two tokens over one stage."""
    ledger = Ledger(
        labels=(StageLabel(stage=0, worker="box0:50051", layers=(0, 2)),),
        received_s=0.0,
        prompt_tokens=5,
        queued_s=0.5,
    )
    for start_s in (0.5, 1.5):
        inside = StageTime(queue_s=0.1, decode_s=0.05, compute_s=0.6)
        hop = Hop(stage=0, sent_s=start_s, returned_s=start_s + 0.9, inside=inside)
        done_s = start_s + 1.0
        ledger.lap(Lap(ready_s=start_s, ordered_s=start_s, hops=(hop,), done_s=done_s))
        ledger.token(done_s)

    read = parse_receipt(ledger.receipt(finished_s=2.5))

    assert read.discrepancy == 0.0
    assert read.queue_ms == 500.0
    assert read.decode.compute_ms == pytest.approx(600.0)
    assert read.decode.waiting_ms == pytest.approx(100.0)
    assert read.decode.transfer_ms == pytest.approx(150.0)


def test_a_receipt_that_adds_up_has_no_discrepancy() -> None:
    assert parse_receipt(receipt(32, 4)).discrepancy == 0.0


@pytest.mark.parametrize(
    ("path", "value", "discrepancy"),
    [
        (("per_token", 2), times(10.0, compute=9.0), 0.1),
        (("per_token", 3), times(10.0, compute=9.0, transfer=2.5), 0.15),
        (("prefill",), {"tokens": 32, **times(10.0, compute=8.0, transfer=1.0)}, 0.1),
        (("decode",), {"tokens": 3, "laps": 3, **times(30.0, compute=27.0)}, 0.1),
        (("total_ms",), 50.0, 0.2),
        (("queue_ms",), 8.0, 0.2),
    ],
)
def test_the_worst_part_of_a_receipt_is_found(
    path: tuple[Any, ...], value: Any, discrepancy: float
) -> None:
    document = receipt(32, 4)
    *ahead, last = path
    place: Any = document
    for key in ahead:
        place = place[key]
    place[last] = value

    assert parse_receipt(document).discrepancy == pytest.approx(discrepancy, abs=1e-3)


def test_rounding_is_no_discrepancy() -> None:
    """Of a token of 0.02 ms, 0.0004 ms are 2 %: that is how receipts are rounded."""
    document = receipt(32, 2)
    document["per_token"][1] = times(0.02, compute=0.0196)

    assert parse_receipt(document).discrepancy == 0.0


@pytest.mark.parametrize(
    "key", ["total_ms", "queue_ms", "prefill", "decode", "stages", "per_token"]
)
def test_a_receipt_without_one_of_its_parts_is_refused_by_name(key: str) -> None:
    document = receipt(32, 4)
    del document[key]

    with pytest.raises(WireError, match=f"KeyError\\('{key}'\\)"):
        parse_receipt(document)


@pytest.mark.parametrize("document", [None, [], "x", {"total_ms": "soon"}])
def test_what_is_no_receipt_is_refused(document: Any) -> None:
    with pytest.raises(WireError, match="receipt cannot be read"):
        parse_receipt(document)


def test_the_mean_of_a_token_is_over_all_tokens_and_not_over_requests() -> None:
    short, long = parse_receipt(receipt(32, 2)).decode, parse_receipt(receipt(32, 5)).decode

    mean = mean_times([short, long], tokens=1 + 4)

    assert (mean.total_ms, mean.compute_ms, mean.transfer_ms) == (10.0, 9.0, 1.0)


# -- the cluster


def test_the_cluster_is_read() -> None:
    cluster = parse_cluster(cluster_document())

    assert (cluster.model, cluster.dtype, cluster.weights) == ("demo", "fp32", "random")
    assert cluster.kv_tokens == 1600
    assert cluster.device == "cpu"
    assert cluster.layer_counts == "1/1"


def test_boxes_of_different_kinds_are_all_named() -> None:
    document = cluster_document()
    document["stages"][1]["device"] = "cuda"

    assert parse_cluster(document).device == "cpu+cuda"


@pytest.mark.parametrize("key", ["model", "dtype", "weights", "pages", "stages"])
def test_a_cluster_without_one_of_its_parts_is_refused_by_name(key: str) -> None:
    document = cluster_document()
    del document[key]

    with pytest.raises(WireError, match=key):
        parse_cluster(document)


# -- prompts


def test_prompts_have_enough_words_and_no_common_beginning() -> None:
    texts = [prompt_text(100, f"1/{i}") for i in range(50)]

    assert all(len(text.split()) >= 100 for text in texts)
    assert len({tuple(text.split()[:8]) for text in texts}) == 50
