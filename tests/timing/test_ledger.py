"""Receipts add up: whatever the laps were, compute + transfer + waiting + other is the total."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.frames.stage_time import StageTime
from edgeserve.timing.hop import Hop, Lap
from edgeserve.timing.ledger import Ledger, StageLabel, verdict

KINDS = ("compute_ms", "transfer_ms", "waiting_ms", "other_ms")
ROUNDING_MS = 0.0005
"""Five figures of a receipt, each rounded to a tenth of a microsecond."""


def _labels(stages: int) -> tuple[StageLabel, ...]:
    return tuple(
        StageLabel(stage=i, worker=f"box-{i}:50051", layers=(10 * i, 10 * i + 10))
        for i in range(stages)
    )


def _hop(stage: int, sent_s: float, returned_s: float, **inside: float) -> Hop:
    return Hop(stage=stage, sent_s=sent_s, returned_s=returned_s, inside=StageTime(**inside))


def _times(
    total: float, compute: float, transfer: float, waiting: float = 0.0, other: float = 0.0
) -> dict[str, float]:
    """In milliseconds, as a receipt has them."""
    return {
        "total_ms": total,
        "compute_ms": compute,
        "transfer_ms": transfer,
        "waiting_ms": waiting,
        "other_ms": other,
    }


# -- by hand


def test_a_receipt_says_where_every_millisecond_went() -> None:
    ledger = Ledger(labels=_labels(2), received_s=10.0, prompt_tokens=5)
    ledger.queued_s = 1.0
    ledger.lap(
        Lap(
            ready_s=11.0,
            ordered_s=11.5,
            #         half a second behind other frames in the gateway
            hops=(
                _hop(0, 11.5, 13.0, compute_s=1.0, queue_s=0.25, decode_s=0.05),
                _hop(1, 13.0, 14.0, compute_s=0.5, encode_s=0.1),
            ),
            done_s=14.1,
        )
    )
    ledger.token(14.1)
    ledger.lap(
        Lap(
            ready_s=14.1,
            ordered_s=14.1,
            hops=(_hop(0, 14.1, 14.4, compute_s=0.2), _hop(1, 14.4, 14.6, compute_s=0.2)),
            done_s=14.6,
        )
    )
    ledger.token(14.6)

    first = _times(total=3100, compute=1500, transfer=600, waiting=750, other=250)
    #       other: decoding 50, encoding 100, and 100 from the last answer to the driver
    second = _times(total=500, compute=400, transfer=100)
    after = _times(total=600, compute=400, transfer=100, other=100)
    #       the second token, and from there to the last piece of text
    assert ledger.receipt(finished_s=14.7) == {
        "total_ms": 4700.0,
        "queue_ms": 1000.0,
        "prefill": {"tokens": 5, "cached_tokens": 0, **first},
        "decode": {"tokens": 1, "laps": 1, **after},
        "stages": [
            {
                "stage": 0,
                "worker": "box-0:50051",
                "layers": [0, 10],
                "compute_ms": 1200.0,
                "transfer_ms": 300.0,
                "waiting_ms": 250.0,
            },
            {
                "stage": 1,
                "worker": "box-1:50051",
                "layers": [10, 20],
                "compute_ms": 700.0,
                "transfer_ms": 400.0,
                "waiting_ms": 0.0,
            },
        ],
        "per_token": [first, second],
        "verdict": "51 % compute, 19 % transfer; stage 0 is the slowest by 71 %",
    }


@pytest.mark.parametrize(
    ("second_starts_s", "second_adds_s"),
    [
        (10.0, 10.0),
        #      right behind the first: its visit to stage 0 lies wholly under the first's to stage 1
        (15.0, 15.0),
        #      half of that visit, from 20 to 25, is after the first chunk was through
        (20.0, 20.0),
        #      no overlap at all
    ],
)
def test_chunks_that_overlap_in_the_pipeline_are_booked_once(
    second_starts_s: float, second_adds_s: float
) -> None:
    ledger = Ledger(labels=_labels(2), received_s=0.0, prompt_tokens=64)
    first = (_hop(0, 0.0, 10.0, compute_s=10.0), _hop(1, 10.0, 20.0, compute_s=10.0))
    ledger.lap(Lap(ready_s=0.0, ordered_s=0.0, hops=first, done_s=20.0))
    at_s = second_starts_s
    second = (
        _hop(0, at_s, at_s + 10, compute_s=10.0),
        _hop(1, at_s + 10, at_s + 20, compute_s=10.0),
    )
    ledger.lap(Lap(ready_s=0.0, ordered_s=at_s, hops=second, done_s=at_s + 20))
    ledger.token(at_s + 20)
    prefill = ledger.receipt(finished_s=at_s + 20)["prefill"]
    assert prefill["compute_ms"] == 1e3 * (20 + second_adds_s)
    assert prefill["waiting_ms"] == prefill["other_ms"] == 0.0
    #      that it stood in the gateway meanwhile is not booked a second time


def test_tokens_after_a_stop_string_are_left_out() -> None:
    ledger = Ledger(labels=_labels(1), received_s=0.0, prompt_tokens=3)
    for start_s in (0.0, 1.0, 2.0, 3.0):
        hop = _hop(0, start_s, start_s + 1, compute_s=0.75)
        ledger.lap(Lap(ready_s=start_s, ordered_s=start_s, hops=(hop,), done_s=start_s + 1))
        ledger.token(start_s + 1)
    receipt = ledger.receipt(finished_s=2.5, tokens=2)
    assert receipt["total_ms"] == 2500.0
    assert len(receipt["per_token"]) == 2
    assert receipt["decode"]["tokens"] == 1
    assert receipt["decode"]["total_ms"] == 1500.0
    assert receipt["stages"][0]["compute_ms"] == 1500.0


def test_a_request_without_a_token_still_has_a_receipt_that_adds_up() -> None:
    ledger = Ledger(labels=_labels(2), received_s=1.0, prompt_tokens=3)
    ledger.queued_s = 0.5
    receipt = ledger.receipt(finished_s=3.0)
    assert (receipt["total_ms"], receipt["queue_ms"]) == (2000.0, 500.0)
    assert (receipt["prefill"]["total_ms"], receipt["decode"]["total_ms"]) == (1500.0, 0.0)
    assert receipt["prefill"]["other_ms"] == 1500.0
    assert (receipt["decode"]["tokens"], receipt["per_token"]) == (0, [])
    assert receipt["verdict"] == "nothing was computed"


def test_a_prompt_that_no_token_was_to_follow_has_the_times_of_its_chunks() -> None:
    ledger = Ledger(labels=_labels(2), received_s=10.0, prompt_tokens=40)
    for start_s in (11.0, 12.0):  # the second one's first hop is under way with the first's second
        hops = (
            _hop(0, start_s, start_s + 1.0, compute_s=0.9),
            _hop(1, start_s + 1.0, start_s + 2.0, compute_s=0.7),
        )
        done_s = start_s + 2.0
        ledger.lap(Lap(ready_s=start_s, ordered_s=start_s, hops=hops, done_s=done_s))

    receipt = ledger.receipt(finished_s=14.5, tokens=0)

    #       of the second chunk, what lies after the end of the first, at 13 s
    assert receipt["prefill"] == {
        "tokens": 40,
        "cached_tokens": 0,
        **_times(total=4500, compute=900 + 700 + 700, transfer=700, other=1500),
    }
    assert [each["compute_ms"] for each in receipt["stages"]] == [900, 1400]
    assert receipt["per_token"] == []
    assert receipt["decode"]["total_ms"] == 0.0
    assert receipt["verdict"] != "nothing was computed"


# -- at random


@dataclass(frozen=True, kw_only=True)
class Script:
    """Durations in seconds, from which a pipeline of real machines could have made the laps."""

    stages: int
    prompt_laps: int
    decode_laps: int
    durations_s: list[float]
    claims: list[float]
    """How much of a round trip the stage accounts for; more than 1 is a stage that exaggerates."""
    queued_s: float
    _used: list[int] = field(default_factory=lambda: [0, 0])

    def pause_s(self) -> float:
        self._used[0] += 1
        return self.durations_s[self._used[0] % len(self.durations_s)]

    def claim(self) -> float:
        self._used[1] += 1
        return self.claims[self._used[1] % len(self.claims)]


SCRIPTS = st.builds(
    Script,
    stages=st.integers(1, 4),
    prompt_laps=st.integers(1, 6),
    decode_laps=st.integers(0, 5),
    durations_s=st.lists(st.sampled_from([0.0, 1e-4, 2e-3, 0.05, 0.3]), min_size=1, max_size=23),
    claims=st.lists(st.sampled_from([0.0, 0.3, 0.9, 1.0, 1.7]), min_size=1, max_size=7),
    queued_s=st.sampled_from([0.0, 0.02, 1.5]),
)


def _play(script: Script) -> tuple[Ledger, float]:
    """A ledger and the moment of its last token. Frames overtake nobody, at no stage."""
    ledger = Ledger(labels=_labels(script.stages), received_s=100.0, prompt_tokens=9)
    ledger.queued_s = script.queued_s
    free_s = [100.0 + script.queued_s + script.pause_s()] * (script.stages + 1)
    ready_s = free_s[0]
    for i in range(script.prompt_laps + script.decode_laps):
        is_decode = i >= script.prompt_laps
        ready_s = free_s[-1] if is_decode else ready_s
        lap = _lap(script, ready_s, free_s)
        ready_s = lap.ordered_s
        ledger.lap(lap)
        if i + 1 >= script.prompt_laps:
            ledger.token(lap.done_s)
    return ledger, free_s[-1]


def _lap(script: Script, ready_s: float, free_s: list[float]) -> Lap:
    """Moves `free_s`, by when each stage and then the driver have dealt with the frame before."""
    ordered_s = at_s = max(ready_s, free_s[0] - script.pause_s()) + script.pause_s()
    hops = []
    for stage in range(script.stages):
        sent_s = at_s + script.pause_s()
        at_s = max(sent_s, free_s[stage]) + script.pause_s()
        free_s[stage] = at_s
        held_s = script.claim() * (at_s - sent_s)
        hops.append(
            _hop(
                stage, sent_s, at_s,
                compute_s=held_s * 0.5, queue_s=held_s * 0.3, encode_s=held_s * 0.2,
            )
        )  # fmt: skip
    free_s[-1] = max(free_s[-1], at_s) + script.pause_s()
    return Lap(ready_s=ready_s, ordered_s=ordered_s, hops=tuple(hops), done_s=free_s[-1])


def _assert_adds_up(times: dict[str, Any]) -> None:
    assert min(times[kind] for kind in KINDS) >= 0
    gap_ms = abs(times["total_ms"] - sum(times[kind] for kind in KINDS))
    assert gap_ms <= ROUNDING_MS, times


@settings(max_examples=150, deadline=None)
@given(script=SCRIPTS, after_s=st.sampled_from([0.0, 0.01, 2.0]), data=st.data())
def test_a_receipt_adds_up_for_every_token_every_phase_and_the_whole(
    script: Script, after_s: float, data: st.DataObject
) -> None:
    ledger, last_s = _play(script)
    tokens = 1 + script.decode_laps
    kept = data.draw(st.none() | st.integers(1, tokens))

    receipt = ledger.receipt(last_s + after_s, kept)

    for times in [*receipt["per_token"], receipt["prefill"], receipt["decode"]]:
        _assert_adds_up(times)
    parts_ms = receipt["prefill"]["total_ms"] + receipt["decode"]["total_ms"]
    assert parts_ms + receipt["queue_ms"] == pytest.approx(receipt["total_ms"], abs=ROUNDING_MS)
    assert len(receipt["per_token"]) == (kept or tokens)
    for kind in ("compute_ms", "transfer_ms"):
        by_stage = sum(stage[kind] for stage in receipt["stages"])
        by_phase = receipt["prefill"][kind] + receipt["decode"][kind]
        assert by_stage == pytest.approx(by_phase, abs=2 * ROUNDING_MS)
    stages_wait_ms = sum(stage["waiting_ms"] for stage in receipt["stages"])
    phases_wait_ms = receipt["prefill"]["waiting_ms"] + receipt["decode"]["waiting_ms"]
    assert stages_wait_ms <= phases_wait_ms + ROUNDING_MS
    #      the difference is what waited in the gateway


# -- the sentence


def _verdict(computes: list[float], transfer_ms: float, total_ms: float) -> str:
    """As for one phase; the other took no time."""
    nothing = dict.fromkeys(("total_ms", *KINDS), 0.0)
    phase = {**nothing, "total_ms": total_ms, "compute_ms": sum(computes)}
    stages = [{"stage": i, "compute_ms": each} for i, each in enumerate(computes)]
    return verdict({**phase, "transfer_ms": transfer_ms}, nothing, stages)


@pytest.mark.parametrize(
    ("computes", "transfer_ms", "total_ms", "sentence"),
    [
        ([36, 46, 0], 3, 100, "82 % compute, 3 % transfer; stage 1 is the slowest by 28 %"),
        ([40, 45.6], 0.4, 100, "86 % compute, 0 % transfer; stage 1 is the slowest by 14 %"),
        ([30, 10], 60, 100, "40 % compute, 60 % transfer; stage 0 is the slowest by 200 %"),
        ([40, 40.8], 10, 100, "81 % compute, 10 % transfer; stage 1 is the slowest by 2 %"),
        ([40, 40.3], 10, 100, "80 % compute, 10 % transfer; the stages are even"),
        ([90], 10, 100, "90 % compute, 10 % transfer; one stage"),
        ([0, 50], 10, 100, "50 % compute, 10 % transfer; stage 1 alone computed"),
        ([0, 0], 10, 100, "nothing was computed"),
        ([0, 0], 0, 0, "nothing was computed"),
    ],
)
def test_the_verdict_is_one_sentence_for_people(
    computes: list[float], transfer_ms: float, total_ms: float, sentence: str
) -> None:
    assert _verdict(computes, transfer_ms, total_ms) == sentence
