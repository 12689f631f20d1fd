"""How long work takes on a GPU: what of it needs no GPU."""

from __future__ import annotations

import pytest

from edgeserve.model.graph_timer import LEAST_S, REPLAYS, REPLAYS_MAX, fastest_s


def test_a_card_that_was_idle_is_timed_when_it_is_fast_again() -> None:
    """Its first replays take five times as long."""
    speeding_up = iter([0.0005] * 30 + [0.0001] * 1000)

    assert fastest_s(lambda: next(speeding_up)) == pytest.approx(0.0001)


@pytest.mark.parametrize(
    ("lap_s", "laps"), [(1.0, REPLAYS), (LEAST_S / 10, 10), (0.0, REPLAYS_MAX)]
)
def test_there_are_a_few_replays_and_never_too_many(lap_s: float, laps: int) -> None:
    made = list[float]()

    def replay_s() -> float:
        made.append(lap_s)
        return lap_s

    assert fastest_s(replay_s) == lap_s
    assert laps <= len(made) <= min(laps + 1, REPLAYS_MAX)
