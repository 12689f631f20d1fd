"""What fails a verdict, what does not, and that every sentence has its numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from edgeserve.probe.load import Refusal
from edgeserve.probe.rows import Percentiles, Refused, Row
from edgeserve.probe.verdict import Verdict, judge
from tests.probe.made_up import CLUSTER, SHAPE, oom, row, stages, token


def verdict(*rows: Row) -> Verdict:
    return judge(rows, SHAPE, CLUSTER)


def texts(given: Verdict) -> list[str]:
    return [each.text for each in given.findings]


def faults(given: Verdict) -> list[str]:
    return [each.text for each in given.findings if each.is_fault]


HEALTHY = (row(1), row(2, token(73.0)), row(4, token(75.0)), row(8, token(79.5)))


def test_a_healthy_cluster_passes_and_is_told_its_numbers() -> None:
    given = verdict(*HEALTHY)

    assert given.passed
    assert texts(given) == [
        "receipts add up: every token within 0.0 %",
        "at batch 1 a token takes 75.0 ms: 96 % compute, 2 % transfer, 0 % waiting, 2 % other",
        (
            "up to batch 8 compute grows little (72.0 to 79.5 ms a token), and each user keeps "
            "91 % of the speed of batch 1"
        ),
        "throughput grows up to batch 8, 95.1 tokens/s: 7.3 times that of batch 1",
        "stage 1 on box1:50051 is the slowest: it computes 10 % longer than stage 2",
    ]


def test_every_sentence_has_a_number() -> None:
    given = verdict(*HEALTHY, oom(16))

    assert [text for text in texts(given) if not re.search(r"\d", text)] == []


# -- what fails


@pytest.mark.parametrize(
    ("refusal", "says"),
    [
        (
            Refusal(status="oom", reason="3 of 16 requests: 503: out of memory"),
            "batch 16 ran out of memory: 3 of 16 requests: 503: out of memory",
        ),
        (
            Refusal(status="rejected", reason="1 of 16 requests: 429: full"),
            "batch 16 was rejected: 1 of 16 requests: 429: full",
        ),
    ],
)
def test_a_batch_that_did_not_run_fails(refusal: Refusal, says: str) -> None:
    assert faults(verdict(*HEALTHY, Refused(batch=16, refusal=refusal))) == [says]


def test_faults_stand_before_facts() -> None:
    given = verdict(*HEALTHY, oom(16))

    assert [each.is_fault for each in given.findings] == [True] + [False] * 5


def test_nothing_is_said_of_numbers_that_do_not_exist() -> None:
    assert len(verdict(oom(1)).findings) == 1


def test_receipts_that_do_not_add_up_fail() -> None:
    assert faults(verdict(row(1), row(2, discrepancy=0.123))) == [
        "batch 2: a receipt's parts miss its total by 12.3 %, more than 1 %; do not trust the times"
    ]
    assert verdict(row(1), row(2, discrepancy=0.01)).passed


def test_prompts_and_answers_of_another_length_fail() -> None:
    given = verdict(row(1, prompt_tokens=(30, 32)), row(2, answer_tokens=(50, 50)))

    assert faults(given) == [
        "batch 1: prompts had 30 to 32 tokens, not the 32 asked for",
        "batch 2: answers had 50 to 50 tokens, not the 64 asked for",
    ]


@pytest.mark.parametrize(
    ("times", "look_at"),
    [
        (token(50.0, transfer_ms=40.0), "network"),
        (token(50.0, waiting_ms=40.0), "queue behind others"),
        (token(50.0, other_ms=40.0), "processors"),
    ],
)
def test_a_token_that_is_lost_between_the_devices_fails(times: object, look_at: str) -> None:
    (fault,) = faults(verdict(row(1, times)))  # type: ignore[arg-type]  # Times

    assert "41.5 ms over 3 stages is not compute" in fault or "43.0 ms" in fault
    assert look_at in fault


def test_a_small_model_may_be_faster_than_its_network() -> None:
    """Half of the token is transfer, but 3 ms over three stages is what hops cost."""
    assert verdict(row(1, token(3.0, transfer_ms=3.0, other_ms=0.0))).passed


def test_a_large_model_may_lose_more_than_a_hops_worth() -> None:
    """20 ms are lost, but that is a tenth of a slow device's token."""
    assert verdict(row(1, token(180.0, transfer_ms=20.0, other_ms=0.0))).passed


def test_users_who_slow_down_while_the_devices_do_not_fail() -> None:
    slow = token(74.0, transfer_ms=3.0, waiting_ms=45.0)

    (fault,) = faults(verdict(row(1), row(8, slow)))

    assert fault == (
        "up to batch 8 compute grows little (72.0 to 74.0 ms a token), and each user keeps 61 % "
        "of the speed of batch 1, less than 70 %: waiting grew most, by 45.0 ms a token"
    )


def test_a_small_models_users_may_slow_down_by_less_than_a_hops_worth() -> None:
    """Half of the speed is lost, but that is 4 ms over three stages."""
    fast, slow = token(2.0, 1.0, 0.0, 1.0), token(2.0, 2.0, 2.0, 2.0)

    assert verdict(row(1, fast), row(8, slow)).passed


def test_users_may_slow_down_as_the_devices_do() -> None:
    """Beyond the range in which weights bound the devices, compute grows with the batch."""
    given = verdict(row(1), row(2, token(80.0)), row(32, token(300.0)))

    assert given.passed
    assert any(text.startswith("up to batch 2 compute grows little") for text in texts(given))


# -- what does not


def test_the_batch_at_which_throughput_stops_growing_is_named() -> None:
    rows = (row(4, output_tok_s=50.0), row(8, output_tok_s=80.0), row(16, output_tok_s=84.0))

    assert (
        "throughput stops growing at batch 8, 80.0 tokens/s: batch 16 changes it by +5 %"
        in texts(verdict(*rows))
    )


def test_a_small_step_needs_only_a_small_gain() -> None:
    """From 15 to 16 the ideal is 6.7 %; 4 % is most of it."""
    rows = (row(15, output_tok_s=100.0), row(16, output_tok_s=104.0))

    assert any("grows up to batch 16" in text for text in texts(verdict(*rows)))


def test_a_large_step_need_not_bring_the_ideal() -> None:
    """Seven times the throughput for seventy times the batch still is growth."""
    rows = (row(1, output_tok_s=60.0), row(70, output_tok_s=480.0))

    assert any("grows up to batch 70" in text for text in texts(verdict(*rows)))


def test_even_stages_are_called_even() -> None:
    given = verdict(row(1, stages=stages(1000.0, 1004.0, 1000.0)))

    assert "the stages are even: the slowest computes 0.4 % longer" in texts(given)


def test_one_stage_has_no_other_to_be_slower_than() -> None:
    assert not any("stage" in text for text in texts(verdict(row(1, stages=stages(1000.0)))))


def test_what_the_client_itself_costs_is_told_and_is_no_fault() -> None:
    given = verdict(row(1), row(8, tpot_ms=Percentiles(p50=95.0, p99=99.0)))

    assert given.passed
    assert texts(given)[-1] == (
        "at batch 8 this client sees a token every 95.0 ms, 20.0 ms more than the receipts: its "
        "own machine or its network is busy"
    )


def test_a_little_http_is_not_worth_a_word() -> None:
    given = verdict(row(1, token(2.0, 0.1, 0.0, 0.1), tpot_ms=Percentiles(p50=3.1, p99=3.2)))

    assert not any("this client" in text for text in texts(given))


def test_a_batch_that_found_no_pages_is_told_of_with_the_arithmetic() -> None:
    small = replace(CLUSTER, pages=24)
    given = judge([row(1), row(8, at_once=4)], SHAPE, small)

    assert given.passed
    assert texts(given)[-1] == (
        "of batch 8, 4 ran at once and the others after them: it wants 768 tokens of keys and "
        "values, and 384 fit"
    )


def test_a_batch_beyond_the_gateways_limit_is_told_of() -> None:
    assert texts(verdict(row(1), row(70, at_once=64)))[-1] == (
        "of batch 70, 64 ran at once and the others after them: the gateway's --max-running allows "
        "no more"
    )


def test_of_a_batch_that_ran_at_once_nothing_is_told() -> None:
    assert not any("at once" in text for text in texts(verdict(row(1), row(8))))
