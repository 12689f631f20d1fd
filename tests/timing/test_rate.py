"""Tokens are counted in the second in which they came out, and for no longer than is told."""

from __future__ import annotations

import random

from edgeserve.timing.rate import SECONDS_KEPT, TokenRate


def test_a_token_counts_in_its_own_second_once_that_is_over() -> None:
    rate = TokenRate()
    rate.made(2, 1000.1)
    rate.made(3, 1000.9)
    rate.made(7, 1001.0)

    assert sum(rate.recent(1000.95)) == 0, "the second is not over"
    assert rate.recent(1001.5)[-2:] == [0, 5]
    assert rate.recent(1002.0)[-2:] == [5, 7]
    assert rate.recent(1010.0)[-10:] == [5, 7] + [0] * 8


def test_what_is_older_is_forgotten_even_if_nothing_came_since() -> None:
    rate = TokenRate()
    rate.made(5, 1000.0)

    assert rate.recent(1000.0 + SECONDS_KEPT)[0] == 5
    for later_s in range(SECONDS_KEPT + 1, 4 * SECONDS_KEPT):
        assert rate.recent(1000.0 + later_s) == [0] * SECONDS_KEPT


def test_it_tells_what_a_list_of_everything_would() -> None:
    dice, rate, made, now_s = random.Random(4), TokenRate(), dict[int, int](), 50.0
    for _ in range(2000):
        now_s += dice.choice((0.001, 0.2, 1.0, 3.7, 150.0 * (dice.random() < 0.01)))
        tokens = dice.randrange(1, 9)
        rate.made(tokens, now_s)
        made[int(now_s)] = made.get(int(now_s), 0) + tokens
        last = int(now_s)
        assert rate.recent(now_s) == [made.get(i, 0) for i in range(last - SECONDS_KEPT, last)]
