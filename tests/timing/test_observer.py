"""What the observer keeps of steps and requests."""

from __future__ import annotations

import pytest

from edgeserve.timing.ledger import Ledger
from edgeserve.timing.observer import STEPS_KEPT, Observer, RequestRecord
from tests.timing.made_steps import LABELS, step_at


def test_a_step_is_counted_at_each_of_its_stages() -> None:
    observer = Observer(LABELS)
    observer.step(step_at(1, 0.0))
    observer.step(step_at(2, 1.0))
    first, second = observer.stages
    assert (first.compute.at_most()[-1], second.compute.at_most()[-1]) == (2, 2)
    assert first.compute.sum == pytest.approx(0.012)
    assert first.transfer.sum == pytest.approx(0.004)
    assert first.waiting.sum == pytest.approx(0.002)
    assert second.compute.sum == pytest.approx(0.010)
    assert second.transfer.sum == pytest.approx(0.004)
    assert second.waiting.sum == 0
    assert observer.frames == 2


def test_the_last_steps_are_kept_and_no_more() -> None:
    observer = Observer(LABELS)
    for frame in range(STEPS_KEPT + 5):
        observer.step(step_at(frame, float(frame)))
    assert [step.frame for step in observer.steps] == list(range(5, STEPS_KEPT + 5))
    assert observer.frames == STEPS_KEPT + 5


def told(*laps: tuple[float, int]) -> tuple[RequestRecord, Ledger]:
    """A request that came at 10 and left the queue at 10.5; (when, tokens) of each lap."""
    requests = RequestRecord()
    ledger = Ledger(labels=LABELS, received_s=10.0, prompt_tokens=5, queued_s=0.5)
    for done_s, tokens in laps:
        requests.lap(ledger, tokens, done_s)
        for _ in range(tokens):
            ledger.token(done_s)
    return requests, ledger


def test_a_requests_times_are_those_of_its_ledger() -> None:
    requests, ledger = told((11.0, 1), (11.25, 1), (12.0, 2))
    #      the last lap confirmed a draft
    assert requests.tokens == 4
    assert (requests.first_token.sum, requests.first_token.at_most()[-1]) == (1.0, 1)
    assert (requests.between_tokens.sum, requests.between_tokens.at_most()[-1]) == (1.0, 2)
    assert requests.total.at_most()[-1] == 0
    #      not before it has ended

    requests.ended(ledger, "length")
    assert requests.total.sum == 2.0
    assert requests.queue.sum == 0.5
    assert requests.prefill.sum == 0.5
    assert requests.decode.sum == 1.0
    assert requests.per_token.sum == pytest.approx(1 / 3)


def test_one_token_says_nothing_about_the_time_between_tokens() -> None:
    requests, ledger = told((11.0, 1))
    requests.ended(ledger, "length")
    assert requests.total.at_most()[-1] == 1
    assert requests.per_token.at_most()[-1] == 0
    assert requests.between_tokens.at_most()[-1] == 0


def test_every_end_has_its_reason_and_only_answers_have_times() -> None:
    requests, ledger = told((11.0, 1), (12.0, 1))
    for reason in ("eos_token", "stop_sequence", "length", "cancelled"):
        requests.ended(ledger, reason)
    requests.failed("overloaded")
    assert requests.ends == {"stop": 2, "length": 1, "abort": 1}
    assert requests.errors == {"overloaded": 1, "stage_unavailable": 0}
    assert requests.total.at_most()[-1] == 3
