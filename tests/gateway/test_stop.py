"""Stop strings over a stream of text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.gateway.text.stop import StopFilter

LETTERS = "ab"  # two letters overlap with one another as often as can be
STOPS = st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=4)


def run(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    filter_ = StopFilter(stops)
    given_out = "".join(filter_.push(piece) for piece in pieces)
    return given_out + filter_.finish(), filter_.found


def expected(stops: list[str], text: str) -> tuple[str, str | None]:
    """By trying every end in turn: the first at which a stop string is complete."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.slow
@settings(deadline=None)
@given(STOPS, st.text(LETTERS, max_size=20), st.lists(st.integers(0, 20), max_size=6))
def test_the_cut_does_not_depend_on_how_the_text_came_in_pieces(
    stops: list[str], text: str, cuts: list[int]
) -> None:
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    assert run(stops, pieces) == expected(stops, text)


@pytest.mark.slow
@settings(deadline=None)
@given(STOPS, st.text(LETTERS, max_size=20))
def test_nothing_is_held_back_that_cannot_become_a_stop_string(stops: list[str], text: str) -> None:
    filter_ = StopFilter(stops)
    given_out = ""
    for end, letter in enumerate(text, 1):
        given_out += filter_.push(letter)
        if filter_.found is not None:
            return
        held = text[len(given_out) : end]
        assert not held or any(stop.startswith(held) for stop in stops)


SPECIALS = ["<s>", "<e>"]


def run_mixed(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    """Of the pieces, those that are specials come as special tokens."""
    filter_ = StopFilter(stops, SPECIALS)
    pushed = ((filter_.push_special if p in SPECIALS else filter_.push)(p) for p in pieces)
    given_out = "".join(pushed)
    return given_out + filter_.finish(), filter_.found


@pytest.mark.parametrize(
    ("stops", "pieces", "given_out", "found"),
    [
        (["<e>"], ["a", "<e>", "b"], "a", "<e>"),
        (["<e>"], ["a", "<s>", "b"], "ab", None),
        (["x", "<e>"], ["a", "<e>", "x"], "a", "<e>"),
        (["x", "<e>"], ["ax", "<e>"], "a", "x"),
        (["b<e>c"], ["ab", "<e>", "cd"], "a", "b<e>c"),
        (["b<e>c"], ["ab", "<e>", "d"], "abd", None),
        (["b<e>c"], ["ab", "c"], "abc", None),
        (["b<e>c"], ["ab", "<s>", "<e>", "c"], "a", "b<e>c"),
        (["b<e>"], ["abb", "<e>"], "ab", "b<e>"),
        (["b<e>"], ["b"], "b", None),
        (["<e><s>"], ["a", "<e>", "<e>", "<s>"], "a", "<e><s>"),
        (["<e>\n<s>u"], ["a", "<e>", "\n", "<s>", "v"], "a\nv", None),
        (["<e>"], ["a<", "e>b"], "a", "<e>"),
        (["b<e>c"], ["ab<", "e>cd"], "a", "b<e>c"),
        (["END"], ["aE", "<e>", "ND"], "a", "END"),
        (["END", "E<e>N"], ["aE", "<e>", "ND"], "a", "E<e>N"),
        (["END", "E<e>X"], ["aE", "<e>", "NDb"], "a", "END"),
        (["END", "N<e>X"], ["aEN", "<e>", "D"], "a", "END"),
        (["e"], ["a", "<e>", "b"], "ab", None),
        (["<e"], ["a", "<e>", "<s>"], "a", None),
    ],
)
def test_a_special_token_is_found_where_a_stop_string_names_it_and_is_no_text(
    stops: list[str], pieces: list[str], given_out: str, found: str | None
) -> None:
    assert run_mixed(stops, pieces) == (given_out, found)
    each_letter = [part for piece in pieces for part in ([piece] if piece in SPECIALS else piece)]
    assert run_mixed(stops, each_letter) == (given_out, found)


def test_special_tokens_that_begin_nothing_are_not_held_back() -> None:
    filter_ = StopFilter(["END", "<e>D"], SPECIALS)
    assert filter_.push("aEN") == "a"
    for _ in range(1000):
        assert filter_.push_special("<e>") == ""
    assert len(filter_._held) == len("EN") + 1
    assert filter_.push("x") + filter_.finish() == "ENx"


@pytest.mark.slow
@settings(deadline=None)
@given(STOPS, st.lists(st.sampled_from([*LETTERS, "<s>", "<e>"]), max_size=20))
def test_special_tokens_that_no_stop_string_names_change_nothing(
    stops: list[str], pieces: list[str]
) -> None:
    text = "".join(piece for piece in pieces if piece not in SPECIALS)
    assert run_mixed(stops, pieces) == expected(stops, text)
    assert run_mixed([*stops, "c<s>c<e>"], pieces) == expected(stops, text)


@pytest.mark.parametrize(
    ("pieces", "given_out"),
    [
        (["a", "EN", "D", "b"], ["a", "", "", ""]),
        (["aE", "b"], ["a", "Eb"]),
        (["EEN", "x"], ["E", "ENx"]),
        (["xENDy"], ["x"]),
    ],
    ids=["across three pieces", "a false start", "a later start", "within one"],
)
def test_what_is_given_out_and_when(pieces: list[str], given_out: list[str]) -> None:
    filter_ = StopFilter(["END"])
    assert [filter_.push(piece) for piece in pieces] == given_out


def test_what_was_held_back_comes_out_at_the_end() -> None:
    filter_ = StopFilter(["END"])
    assert filter_.push("theEN") == "the"
    assert filter_.finish() == "EN"
    assert filter_.found is None


def test_of_two_that_end_together_the_longer_is_cut() -> None:
    assert run(["c", "abc"], ["xab", "cd"]) == ("x", "abc")


def test_after_the_stop_string_nothing_comes_out_any_more() -> None:
    filter_ = StopFilter(["."])
    assert filter_.push("a.b") == "a"
    assert filter_.found == "."
    assert filter_.push("c") + filter_.finish() == ""
