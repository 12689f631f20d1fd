"""Tokens are counted in the second in which they came out, and for no longer than is told."""

from __future__ import annotations

import random

from edgeserve.timing.pace import SECONDS_KEPT, Pace


def test_a_token_counts_in_its_own_second_once_that_is_over() -> None:
    pace = Pace()
    pace.made(2, 1000.1)
    pace.made(3, 1000.9)
    pace.made(7, 1001.0)

    assert sum(pace.recent(1000.95)) == 0, "the second is not over"
    assert pace.recent(1001.5)[-2:] == [0, 5]
    assert pace.recent(1002.0)[-2:] == [5, 7]
    assert pace.recent(1010.0)[-10:] == [5, 7] + [0] * 8


def test_what_is_older_is_forgotten_even_if_nothing_came_since() -> None:
    pace = Pace()
    pace.made(5, 1000.0)

    assert pace.recent(1000.0 + SECONDS_KEPT)[0] == 5
    for later_s in range(SECONDS_KEPT + 1, 4 * SECONDS_KEPT):
        assert pace.recent(1000.0 + later_s) == [0] * SECONDS_KEPT


def test_it_tells_what_a_list_of_everything_would() -> None:
    dice, pace, made, now_s = random.Random(4), Pace(), dict[int, int](), 50.0
    for _ in range(2000):
        now_s += dice.choice((0.001, 0.2, 1.0, 3.7, 150.0 * (dice.random() < 0.01)))
        tokens = dice.randrange(1, 9)
        pace.made(tokens, now_s)
        made[int(now_s)] = made.get(int(now_s), 0) + tokens
        last = int(now_s)
        assert pace.recent(now_s) == [made.get(i, 0) for i in range(last - SECONDS_KEPT, last)]
