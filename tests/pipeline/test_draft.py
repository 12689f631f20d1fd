"""Guessing from what was said, and knowing when to stop."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeserve.pipeline.draft import DRAFTS_MAX, PAUSE_TOKENS, Drafter, Lookup, accepted

NO_STOP = frozenset[int]()


@pytest.mark.parametrize(
    ("tokens", "following"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
        #             1, 2 stood at the beginning, before 3
        ([1, 2, 7, 1, 2, 8, 1, 2], [8, 1, 2]),
        #             of two places the later one
        ([9, 1, 2, 7, 5, 1, 2, 8, 9, 1, 2], [7, 5, 1]),
        #             of two matches the longer one, though it is earlier
        ([1, 2, 3], []),
        ([1, 1], []),
        #             a match does not find itself
        ([1, 1, 1], [1]),
        #             but what repeats goes on repeating
        ([], []),
    ],
)
def test_what_followed_the_longest_match_is_proposed(
    tokens: list[int], following: list[int]
) -> None:
    assert Lookup(tokens).following(3) == following


@given(st.lists(st.integers(0, 3), max_size=40))
def test_growing_token_by_token_finds_what_looking_at_once_finds(tokens: list[int]) -> None:
    growing: list[int] = []
    lookup = Lookup(growing)
    for token in tokens:
        growing.append(token)
        assert lookup.following(4) == Lookup(list(growing)).following(4)
        lookup.remember()


def test_a_guess_costs_microseconds_however_long_the_prompt() -> None:
    """A search through the tokens would take milliseconds at each step."""
    tokens = random.Random(0).choices(range(32_000), k=100_000)
    lookup = Lookup(tokens)
    lookup.following(1)
    start_s = time.thread_time()
    for token in range(1000):
        tokens.append(token)
        lookup.following(8)
        lookup.remember()
    assert time.thread_time() - start_s < 0.1


def _steps(drafter: Drafter, tokens: list[int], truth: list[int]) -> list[int]:
    """How many drafts each step tried, until the truth is said."""
    tried = []
    said = 0
    while said < len(truth):
        drafter.propose(len(truth) - said - 1)
        drafter.remember()
        drafts = list(drafter.proposal)
        count = accepted(truth[said : said + len(drafts) + 1], drafts, NO_STOP)
        tokens += truth[said : said + count]
        said += count
        drafter.tried(len(drafts), count - 1)
        tried.append(len(drafts))
    return tried


def test_an_answer_that_quotes_its_prompt_takes_a_fraction_of_the_steps() -> None:
    prompt = random.Random(1).choices(range(32_000), k=200)
    tokens = [*prompt, *prompt[:2]]
    tried = _steps(Drafter(tokens, None), tokens, truth=prompt[2:130])
    assert tokens[-128:] == prompt[2:130]
    assert max(tried) == DRAFTS_MAX
    assert len(tried) <= 128 / 8


def test_wrong_guesses_make_a_sequence_pause_for_longer_and_longer() -> None:
    """A text in which every pair returns and is never followed by the same token."""
    tokens, truth = [7, 8], []
    for number in range(400):
        truth += [100 + number, 7, 8]
    tried = _steps(Drafter(tokens, None), tokens, truth)
    assert sum(tried[:50]) > 0
    tail = tried[-600:]
    assert sum(1 for each in tail if each) <= 600 / PAUSE_TOKENS


def test_a_fixed_number_of_drafts_is_kept_whatever_comes_of_it() -> None:
    tokens, truth = [7, 8], []
    for number in range(40):
        truth += [100 + number, 7, 8]
    tried = _steps(Drafter(tokens, 3), tokens, truth)
    assert set(tried[5:-4]) == {0, 3}
    assert sum(1 for each in tried if each) >= 38


def test_no_more_is_proposed_than_may_still_be_said() -> None:
    drafter = Drafter([1, 2, 3, 4, 5, 6, 1, 2], None)
    drafter.propose(2)
    assert drafter.proposal == [3, 4]
    drafter.propose(0)
    assert drafter.proposal == []


@pytest.mark.parametrize(
    ("sampled", "drafts", "count"),
    [
        ([5], [], 1),
        ([5, 6, 7], [5, 6], 3),
        #             both came true, and one token more comes for nothing
        ([5, 9, 7], [5, 6], 2),
        #             9 is what would have been sampled; 7 follows a token that was never said
        ([9, 6, 7], [5, 6], 1),
        ([5, 2, 7], [5, 2], 2),
        #             2 ends the answer, though it was drafted
    ],
)
def test_tokens_count_up_to_the_first_that_was_not_drafted(
    sampled: list[int], drafts: list[int], count: int
) -> None:
    assert accepted(sampled, drafts, frozenset({2})) == count
