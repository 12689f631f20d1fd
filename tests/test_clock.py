"""Time only goes forward, whoever holds the clock."""

from __future__ import annotations

import pytest

from edgeserve.clock import WAKE_S, ManualClock, MonotonicClock, unix_ns


def test_a_manual_clock_stands_still_until_told_to_move() -> None:
    clock = ManualClock(start_s=5.0)
    assert (clock.now_s(), clock.now_s()) == (5.0, 5.0)
    clock.advance(1.5)
    clock.advance(0.0)
    assert clock.now_s() == 6.5


def test_a_manual_clock_refuses_to_go_backwards() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="time cannot go backwards"):
        clock.advance(-1e-9)
    assert clock.now_s() == 0.0


def test_the_machine_s_clock_never_goes_backwards() -> None:
    clock = MonotonicClock()
    readings = [clock.now_s() for _ in range(100)]
    assert readings == sorted(readings)
    assert readings[-1] > readings[0]


def test_a_manual_clock_sleeps_by_moving_on_and_never_back() -> None:
    clock = ManualClock(start_s=5.0)
    clock.sleep_until(7.0)
    clock.sleep_until(6.0)
    assert clock.now_s() == 7.0


def test_the_machine_s_clock_sleeps_until_the_instant_and_not_less() -> None:
    clock = MonotonicClock()
    for ahead_s in (-1.0, 0.0, WAKE_S / 2, 0.02):
        start_s = clock.now_s()
        clock.sleep_until(start_s + ahead_s)
        assert ahead_s <= clock.now_s() - start_s < ahead_s + 1.1


def test_later_starts_of_a_gateway_have_greater_epochs() -> None:
    first, second = unix_ns(), unix_ns()
    assert 1_700_000_000 * 10**9 < first <= second
