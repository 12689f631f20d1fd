"""One key's limits: what is held is what is under way, and no token is spent twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from edgeserve.clock import ManualClock
from edgeserve.errors import RateLimited, Unprocessable
from edgeserve.gateway.edge.quota import Quota, QuotaLimits, Reservation

MINUTE_S = 60.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(7.0)


# -- sequences at once


def test_as_many_sequences_as_the_limit_says_are_let_in(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(concurrency=3), clock)
    first = quota.reserve(2, 10)
    quota.reserve(1, 10)
    with pytest.raises(RateLimited) as refused:
        quota.reserve(1, 10)
    assert refused.value.numbers == {
        "limit": "concurrency",
        "sequences_max": 3,
        "sequences_in_use": 3,
        "sequences_asked": 1,
        "retry_after_s": 1,
    }
    assert (quota.in_use, quota.refused) == (3, 1)
    quota.close(first, 10)
    quota.reserve(2, 10)
    assert quota.in_use == 3


def test_what_could_never_be_let_in_is_not_asked_to_come_again(clock: ManualClock) -> None:
    with pytest.raises(Unprocessable, match="4 answers are asked for, but this key may have 3"):
        Quota(QuotaLimits(concurrency=3), clock).reserve(4, 1)
    with pytest.raises(Unprocessable, match="ask for at least 1 fewer"):
        Quota(QuotaLimits(tokens_per_minute=600), clock).reserve(1, 601)


def test_without_limits_everything_is_let_in_and_counted(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(), clock)
    held = [quota.reserve(1000, 10**9) for _ in range(3)]
    assert (quota.in_use, quota.headers()) == (3000, {})
    quota.close(held[0], 5)
    assert (quota.in_use, quota.tokens_used) == (2000, 5)


# -- tokens a minute


def test_a_minutes_worth_may_be_asked_for_at_once_and_fills_evenly(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(tokens_per_minute=600), clock)
    quota.reserve(1, 600)
    clock.advance(10)
    #    10 a second: 100 are there again
    with pytest.raises(RateLimited) as refused:
        quota.reserve(1, 121)
    assert refused.value.numbers == {
        "limit": "tokens_per_minute",
        "tokens_per_minute": 600,
        "tokens_left": 100,
        "tokens_asked": 121,
        "retry_after_s": 3,
        #                2.1 s, rounded up: whoever waits for so long is let in
    }
    clock.advance(3)
    quota.reserve(1, 121)
    assert quota.headers() == {
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "9",
        "x-ratelimit-reset-tokens": "59.100s",
    }


def test_what_was_not_used_is_given_back_at_once(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(tokens_per_minute=600), clock)
    held = quota.reserve(1, 600)
    quota.close(held, 50)
    quota.reserve(1, 550)
    assert quota.tokens_used == 50
    with pytest.raises(RateLimited):
        quota.reserve(1, 1)


def test_what_overflows_is_lost(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(tokens_per_minute=600), clock)
    held = quota.reserve(1, 600)
    clock.advance(MINUTE_S)
    quota.close(held, 0)
    quota.reserve(1, 600)
    with pytest.raises(RateLimited):
        quota.reserve(1, 1)


def test_a_refused_request_takes_nothing(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(concurrency=1, tokens_per_minute=600), clock)
    quota.reserve(1, 500)
    for sequences, tokens in ((1, 1), (1, 200)):
        with pytest.raises(RateLimited):
            quota.reserve(sequences, tokens)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "100"
    assert quota.in_use == 1


def test_closing_twice_gives_back_once(clock: ManualClock) -> None:
    quota = Quota(QuotaLimits(concurrency=2, tokens_per_minute=600), clock)
    quota.reserve(1, 100)
    held = quota.reserve(1, 100)
    for _ in range(2):
        quota.close(held, 10)
    assert (quota.in_use, quota.tokens_used) == (1, 10)
    assert quota.headers()["x-ratelimit-remaining-tokens"] == "490"


# -- whatever happens

arrivals = some.tuples(some.just("arrive"), some.integers(1, 4), some.integers(2, 700))
ends = some.tuples(some.just("end"), some.integers(0, 20), some.floats(0, 1))
waits = some.tuples(some.just("wait"), some.floats(0, 90), some.none())


@pytest.mark.slow
@given(some.lists(some.one_of(arrivals, ends, waits), max_size=60))
def test_in_every_history_the_places_are_those_of_live_requests_and_no_token_is_spent_twice(
    history: list[tuple[str, float, float]],
) -> None:
    clock = ManualClock()
    limits = QuotaLimits(concurrency=6, tokens_per_minute=600)
    quota, live = Quota(limits, clock), list[Reservation]()
    for what, number, more in history:
        match what:
            case "wait":
                clock.advance(number)
            case "arrive":
                _arrive(quota, live, int(number), int(more))
            case "end" if live:
                held = live.pop(int(number) % len(live))
                quota.close(held, int(more * held.tokens))
        assert quota.in_use == sum(each.sequences for each in live) <= 6
        remaining = int(quota.headers()["x-ratelimit-remaining-tokens"])
        assert 0 <= remaining <= 600
        spent = quota.tokens_used + sum(each.tokens for each in live)
        assert spent + remaining <= 600 + clock.now_s() * 10 + 1e-6
        #      ever used or reserved, and what is left: a full bucket and what came in


def _arrive(quota: Quota, live: list[Reservation], sequences: int, tokens: int) -> None:
    try:
        live.append(quota.reserve(sequences, tokens))
    except RateLimited:
        return
    except Unprocessable:
        return
