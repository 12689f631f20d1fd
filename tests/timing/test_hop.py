"""One visit to a stage: what the gateway measured, against what the stage says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve.frames.stage_time import StageTime
from edgeserve.timing.hop import Hop, Split

SECONDS = st.floats(0, 100)
STAGE_TIMES = st.builds(
    StageTime,
    queue_s=SECONDS,
    decode_s=SECONDS,
    copy_in_s=SECONDS,
    compute_s=SECONDS,
    copy_out_s=SECONDS,
    encode_s=SECONDS,
)


def test_transfer_is_what_the_round_trip_took_beyond_what_the_stage_accounts_for() -> None:
    inside = StageTime(queue_s=1, decode_s=2, copy_in_s=4, compute_s=8, copy_out_s=16, encode_s=32)
    hop = Hop(stage=0, sent_s=100, returned_s=170, inside=inside)
    assert inside.held_s == 63
    assert hop.transfer_s == 7
    assert hop.split == Split(compute_s=8, transfer_s=7, waiting_s=1)
    #      decoding, copies and encoding are left: they are `other`


def test_a_stage_that_claims_more_than_the_round_trip_is_scaled_to_it() -> None:
    inside = StageTime(queue_s=10, compute_s=30)
    hop = Hop(stage=0, sent_s=5, returned_s=25, inside=inside)
    assert hop.split == Split(compute_s=15, transfer_s=0, waiting_s=5)


def test_a_stage_that_says_nothing_leaves_all_to_transfer() -> None:
    hop = Hop(stage=0, sent_s=1, returned_s=4, inside=StageTime())
    assert hop.split == Split(transfer_s=3)


@given(round_trip_s=SECONDS, inside=STAGE_TIMES)
def test_no_part_is_negative_and_together_they_are_never_more_than_the_hop(
    round_trip_s: float, inside: StageTime
) -> None:
    hop = Hop(stage=0, sent_s=0, returned_s=round_trip_s, inside=inside)
    split = hop.split
    assert min(split.compute_s, split.transfer_s, split.waiting_s, hop.transfer_s) >= 0
    assert split.total_s <= round_trip_s * (1 + 1e-9)


def test_splits_add_up_and_scale_by_kind() -> None:
    one, two = Split(compute_s=1, transfer_s=2, waiting_s=4), Split(compute_s=8, waiting_s=16)
    assert Split.total([one, two]) == Split(compute_s=9, transfer_s=2, waiting_s=20)
    assert Split.total([]) == Split()
    assert one.scaled(0.5) == Split(compute_s=0.5, transfer_s=1, waiting_s=2)
    assert one.total_s == pytest.approx(7)
