"""Pages with several holders, against the simplest model of them: a counter and a dictionary."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.schedule.page_holders import PageHolders

A, B, C, D = b"a", b"b", b"c", b"d"


def _named(pages: PageHolders, hashes: list[bytes]) -> tuple[int, ...]:
    """A table whose first pages are full of `hashes`."""
    reserved = pages.reserve(len(hashes) + 1, hashes)
    assert reserved is not None
    for page, page_hash in zip(reserved[0], hashes, strict=False):
        pages.name(page, page_hash)
    return reserved[0]


def test_a_prompt_that_begins_alike_holds_the_same_pages() -> None:
    pages = PageHolders(10)
    first = _named(pages, [A, B, C])
    assert pages.reserve(4, [A, B, D]) == ((*first[:2], 4, 5), 2)
    #      as far as they are alike, and not a page further
    assert pages.in_use == 6


def test_pages_outlive_their_last_holder_until_pages_are_short() -> None:
    pages = PageHolders(6)
    table = _named(pages, [A, B, C])
    pages.release(table)
    assert (pages.in_use, pages.kept) == (0, 3)
    again = pages.reserve(4, [A, B, C])
    assert again is not None
    assert again[0][:3] == table[:3]
    assert again[1] == 3
    pages.release(again[0])
    everything = pages.reserve(6, [])
    assert everything is not None
    assert sorted(everything[0]) == list(range(6))
    assert pages.kept == 0
    pages.release(everything[0])
    assert pages.reserve(1, [A]) == ((0,), 0)
    #      what was given away is known no more


def test_the_least_recently_used_page_is_given_up_first_and_of_a_prompt_its_end() -> None:
    pages = PageHolders(4)
    old, new = _named(pages, [A]), _named(pages, [B])
    pages.release(old)
    pages.release(new)
    touched = pages.reserve(1, [A])
    assert touched is not None
    pages.release(touched[0])
    held = pages.reserve(3, [])
    #      one page more than are free: b's, since a's was used later
    assert held is not None
    assert pages.reserve(1, [A]) == (old[:1], 1)

    ends = PageHolders(4)
    ends.release(_named(ends, [A, B, C]))
    assert ends.reserve(2, []) is not None
    found = ends.reserve(2, [A, B])
    assert found is not None
    assert found[1] == 2


def test_a_shared_page_does_not_count_as_free_for_the_one_that_shares_it() -> None:
    pages = PageHolders(3)
    pages.release(_named(pages, [A, B]))
    assert pages.reserve(4, [A, B]) is None
    #      two are known and one is free
    assert pages.kept == 2
    reserved = pages.reserve(3, [A, B])
    assert reserved is not None
    assert reserved[1] == 2


def test_what_a_lost_stage_held_is_forgotten() -> None:
    pages = PageHolders(3)
    pages.release(_named(pages, [A, B]))
    pages.forget_names()
    assert pages.reserve(3, [A, B]) == ((0, 1, 2), 0)


@settings(max_examples=300, deadline=None)
@given(
    total=st.integers(0, 24),
    history=st.lists(st.tuples(st.booleans(), st.integers(0, 2**16)), max_size=60),
)
def test_no_page_is_lost_and_none_has_two_meanings(
    total: int, history: list[tuple[bool, int]]
) -> None:
    """Prompts are paths in a tree of four branches, so they often begin alike."""
    pages = PageHolders(total)
    held: list[tuple[tuple[int, ...], list[bytes]]] = []
    content: dict[int, bytes] = {}
    for reserving, number in history:
        if reserving:
            path = [f"{number % 4 ** (i + 1)} at {i}".encode() for i in range(number % 5)]
            count = len(path) + number % 3
            reserved = pages.reserve(count, path)
            if reserved is None:
                assert count > total - pages.in_use
                continue
            table, known = reserved
            assert [content[page] for page in table[:known]] == path[:known]
            others = {page for other, _ in held for page in other}
            assert not others & set(table[known:]), "a page that somebody writes to is another's"
            for page, page_hash in zip(table, path, strict=False):
                pages.name(page, page_hash)
                content[page] = page_hash
            held.append((table, path))
        elif held:
            pages.release(held.pop(number % len(held))[0])
        counts = Counter(page for table, _ in held for page in table)
        assert pages.in_use == len(counts)
        assert pages.in_use + pages.kept <= total
    for table, _ in held:
        pages.release(table)
    everything = pages.reserve(total, [])
    assert everything is not None, "a page leaked"
    assert sorted(everything[0]) == list(range(total))
