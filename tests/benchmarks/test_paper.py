"""A token's time on paper: its sums by hand, and the page's table is what the program prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper import (
    CASES,
    CONTEXTS,
    SHARED_H200,
    SPEC,
    THREE_BOXES,
    Case,
    linear_rate,
    small_kernels,
    table,
    token_time,
    weights_bytes,
)
from edgeserve.families.spec import Dtype

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/performance.md"
ONE, EIGHT, INT8 = CASES


def test_the_page_has_the_tables_that_are_printed() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for context in CONTEXTS:
        assert "\n".join(table(context)) in page


def test_weights_are_what_a_step_moves() -> None:
    # 40 layers of 5120 x (3 x 5120 + 5120 + 3 x 13824) and two norms, the last norm, the head.
    layer = 5120 * (4 * 5120 + 3 * 13824) + 2 * 5120
    parameters = 40 * layer + 5120 + 32000 * 5120
    assert weights_bytes(SPEC, Dtype.FP16, after=True) == 2 * parameters
    assert weights_bytes(SPEC, Dtype.INT8, after=False) == 5 * parameters
    assert parameters < weights_bytes(SPEC, Dtype.INT8, after=True) < 1.002 * parameters


@pytest.mark.parametrize(
    ("case", "after", "share"),
    [
        (ONE, False, 0.875), (ONE, True, 0.93), (EIGHT, False, 0.78), (EIGHT, True, 0.85),
        (INT8, False, 0.875), (INT8, True, 0.85),
    ],
)  # fmt: skip
def test_weights_are_read_at_a_share_of_the_data_sheet(
    case: Case, after: bool, share: float
) -> None:
    assert linear_rate(THREE_BOXES, case, after=after) == pytest.approx(share * 360e9)
    assert linear_rate(SHARED_H200, case, after=after) == pytest.approx(share * 0.86 * 4.8e12)


def test_every_cause_by_hand() -> None:
    before = token_time(THREE_BOXES, EIGHT, after=False).seconds
    assert before == pytest.approx(
        {
            "weights": 25_705_000_000 / (0.78 * 360e9),
            "keys and values": 8 * 1024 * 819_200 / (0.85 * 360e9),
            "small kernels": (40 * 6 + 12 + 22) * 4.2e-6,
            "hops": 3 * (64e-6 + 375e-6),
            "wire": 4 * 8 * 10_240 / 125e6 + 6 * 100e-6,
        },
        rel=1e-3,
    )
    assert token_time(SHARED_H200, EIGHT, after=False).seconds["wire"] == 0
    assert small_kernels(SPEC) == 40 * 6 + 12 + 22


def test_a_token_takes_the_sum_of_its_causes_and_less_after() -> None:
    for place in (THREE_BOXES, SHARED_H200):
        for case in CASES:
            before, after = (token_time(place, case, after=each) for each in (False, True))
            assert before.total_s == pytest.approx(sum(before.seconds.values()))
            assert after.total_s < before.total_s
