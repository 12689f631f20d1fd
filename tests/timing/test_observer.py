"""What the observer keeps of steps and requests."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from edgeserve.timing.histogram import Histogram
from edgeserve.timing.ledger import Ledger
from edgeserve.timing.observer import STEPS_KEPT, Observer, RequestRecord
from edgeserve.timing.rate import TokenRate
from edgeserve.timing.straggler import BLOCK_FRAMES, BLOCKS_MIN, Straggling
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


def test_a_copy_has_all_there_is_and_nothing_that_comes_later() -> None:
    observer = Observer(LABELS)
    _feed(observer, 0.0)
    copied = observer.copied()
    before = _all_of(copied)
    assert before == _all_of(observer)
    _feed(observer, 100.0)
    assert _all_of(copied) == before
    after = _all_of(observer)
    same = [part for part in before if before[part] == after[part]]
    assert same == ["0 label", "1 label"], "all others had something to add"


def _feed(observer: Observer, at_s: float) -> None:
    observer.step(step_at(1, at_s))
    observer.stragglers.now[1] = Straggling(slowdown=0.2, since_s=at_s)
    observer.stragglers.recent_s = (at_s, at_s)
    for stage in observer.stages:
        stage.lost += 1
    ledger = Ledger(labels=LABELS, received_s=at_s, prompt_tokens=5, queued_s=0.5)
    for lap in (1, 2):
        observer.requests.lap(ledger, 1, at_s + lap)
        ledger.token(at_s + lap)
    observer.requests.ended(ledger, "length")
    observer.requests.failed("overloaded")


def _all_of(observer: Observer) -> dict[str, object]:
    """By name; values that stay as they are."""
    parts: dict[str, object] = {
        "frames": observer.frames,
        "steps": tuple(observer.steps),
        "stragglers": (tuple(observer.stragglers.now), observer.stragglers.recent_s),
    }
    for i, record in enumerate((*observer.stages, observer.requests)):
        parts |= {f"{i} {name}": _settled(part) for name, part in vars(record).items()}
    return parts


def _settled(part: object) -> object:
    if isinstance(part, Histogram):
        return part.sum, tuple(part.at_most())
    if isinstance(part, TokenRate):
        return tuple(part.recent(110.0))
    return dict(part) if isinstance(part, Counter) else part


def test_a_stage_that_scores_prompts_is_no_straggler() -> None:
    """The last stage takes longer for them, and for the same number of tokens."""
    straggling: list[bool] = []
    for scored in (0, 3):
        observer = Observer(LABELS)
        for frame in range((BLOCKS_MIN + 1) * BLOCK_FRAMES):
            step = step_at(frame, frame * 0.03)
            first, second = step.hops
            if frame >= BLOCKS_MIN * BLOCK_FRAMES:
                slower = replace(second.inside, compute_s=2 * second.inside.compute_s)
                step = replace(step, hops=(first, replace(second, inside=slower)), scored=scored)
            observer.step(step)
        straggling.append(observer.stragglers.now[1] is not None)
        assert observer.frames == (BLOCKS_MIN + 1) * BLOCK_FRAMES
    assert straggling == [True, False]


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
