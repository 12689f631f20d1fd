"""Values fall into the right buckets, bounds included, and none is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve.timing.histogram import Histogram


def test_a_value_on_a_bound_counts_as_at_most_it() -> None:
    histogram = Histogram((0.5, 1.0))
    for value in (0.25, 0.5, 0.75, 1.0, 8.0):
        histogram.observe(value)
    assert histogram.at_most() == [2, 4, 5]
    assert histogram.sum == 10.5


def test_before_the_first_value_all_is_zero() -> None:
    assert Histogram((1.0,)).at_most() == [0, 0]
    assert Histogram((1.0,)).sum == 0.0


@given(st.lists(st.floats(0, 100), max_size=50))
def test_buckets_agree_with_counting_by_hand(values: list[float]) -> None:
    bounds = (0.001, 0.5, 2.0, 50.0)
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    by_hand = [sum(value <= bound for value in values) for bound in bounds]
    assert histogram.at_most() == [*by_hand, len(values)]
    assert histogram.sum == pytest.approx(sum(values))
