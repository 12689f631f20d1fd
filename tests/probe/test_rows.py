"""Every figure of a row, from answers whose times are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeserve.probe.load import Answer, LoadRun, Refusal, Shape
from edgeserve.probe.receipt import parse_receipt
from edgeserve.probe.rows import (
    Measured,
    Refused,
    efficiency,
    kv_tokens,
    percentile,
    row_of,
)
from tests.probe.fake_gateway import receipt
from tests.probe.made_up import CLUSTER, oom, row

SHAPE = Shape(input_tokens=32, output_tokens=3)


def answer(started_s: float, *token_s: float, prompt_tokens: int = 32) -> Answer:
    document = receipt(prompt_tokens, len(token_s))
    return Answer(started_s=started_s, token_s=token_s, receipt=parse_receipt(document))


def measure(*runs: LoadRun, batch: int = 2) -> Measured:
    measured = row_of(batch, runs, SHAPE, CLUSTER)
    assert isinstance(measured, Measured)
    return measured


def test_throughput_is_all_tokens_over_all_time() -> None:
    run = LoadRun(answers=(answer(10.0, 10.5, 11.0, 11.5), answer(10.1, 10.6, 11.2, 12.0)))

    assert run.output_tok_s == pytest.approx(6 / 2.0)


def test_the_throughput_of_a_batch_is_the_median_of_its_runs() -> None:
    runs = [LoadRun(answers=(answer(0.0, 1.0, 2.0, end_s),)) for end_s in (3.0, 4.0, 30.0)]

    assert measure(*runs).output_tok_s == pytest.approx(3 / 4.0)


def test_times_to_and_between_tokens_are_the_clients() -> None:
    run = LoadRun(answers=(answer(0.0, 0.5, 0.6, 0.7), answer(0.0, 0.3, 0.5, 0.7)))
    found = measure(run)

    assert found.ttft_ms.p50 == pytest.approx(300.0)
    assert found.ttft_ms.p99 == pytest.approx(500.0)
    # (end to end - ttft) / (n - 1): (0.7 - 0.5) / 2 and (0.7 - 0.3) / 2
    assert found.tpot_ms.p50 == pytest.approx(100.0)
    assert found.tpot_ms.p99 == pytest.approx(200.0)
    assert found.tok_s_per_user == pytest.approx(1 / 0.15)


def test_a_tokens_parts_are_those_of_the_receipts() -> None:
    found = measure(LoadRun(answers=(answer(0.0, 0.5, 0.6, 0.7), answer(0.0, 0.3, 0.5, 0.7))))

    assert found.token.compute_ms == pytest.approx(9.0)
    assert found.token.transfer_ms == pytest.approx(1.0)
    assert found.receipts_add_up
    assert [each.compute_ms for each in found.stages] == [12.0, 15.0]


def test_lengths_that_differ_from_request_to_request_are_kept() -> None:
    found = measure(
        LoadRun(answers=(answer(0.0, 0.5, 0.6), answer(0.0, 0.3, 0.5, 0.7, prompt_tokens=31)))
    )

    assert found.prompt_tokens == (31, 32)
    assert found.answer_tokens == (2, 3)


def test_an_answer_of_one_token_does_not_stop_the_probe() -> None:
    assert measure(LoadRun(answers=(answer(0.0, 0.5),))).answer_tokens == (1, 1)


def test_a_refusal_is_a_row_too() -> None:
    refusal = Refusal(status="rejected", reason="429: no room")

    assert row_of(4, refusal, SHAPE, CLUSTER) == Refused(batch=4, refusal=refusal)


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 50), (99, 99), (99.5, 100), (100, 100), (0, 1), (1, 1), (1.5, 2)]
)
def test_percentiles_are_values_that_were_seen(percent: float, value: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == value


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert percentile([7.0], 50) == percentile([7.0], 99) == 7.0


# -- derived


def test_efficiency_is_against_batch_one() -> None:
    rows = [row(1, output_tok_s=10.0), row(4, output_tok_s=32.0)]

    assert [efficiency(each, rows) for each in rows] == [1.0, 0.8]


def test_without_batch_one_there_is_no_efficiency() -> None:
    rows = [row(2), row(4), oom(8)]

    assert efficiency(rows[0], rows) is None  # type: ignore[arg-type]  # it is a Measured


def test_keys_and_values_are_reserved_in_whole_pages() -> None:
    # 33 + 64 tokens are 7 pages of 16
    assert kv_tokens(2, Shape(input_tokens=33, output_tokens=64), CLUSTER) == 2 * 7 * 16


def test_those_that_waited_for_another_to_end_did_not_run_at_once() -> None:
    """Two of three ran, and took 30 ms; the third waited nearly as long for its pages."""
    answers = [answer(0.0, 0.5, 0.6, 0.7) for _ in range(3)]
    late = replace(answers[2].receipt, queue_ms=28.0, total_ms=58.0)
    run = LoadRun(answers=(answers[0], answers[1], replace(answers[2], receipt=late)))

    assert run.at_once == 2
    assert measure(run, batch=3).at_once == 2
    # 32 + 3 tokens are 3 pages of 16
    assert measure(run, batch=3).kv_tokens_in_use == 2 * 3 * 16


def test_a_moment_in_the_queue_is_no_waiting() -> None:
    prompt = answer(0.0, 0.5, 0.6, 0.7)
    soon = replace(prompt, receipt=replace(prompt.receipt, queue_ms=0.4, total_ms=30.4))

    assert LoadRun(answers=(prompt, soon)).at_once == 2
