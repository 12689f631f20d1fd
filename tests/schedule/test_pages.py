"""The page pool against the simplest model of it: a set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.schedule.pages import PagePool


@settings(max_examples=150, deadline=None)
@given(
    total=st.integers(0, 40),
    history=st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40),
)
def test_pages_are_handed_out_like_members_of_a_set(
    total: int, history: list[tuple[bool, int]]
) -> None:
    """Nothing is handed out twice or lost, and a request fails only if there are too few."""
    pool, free, held = PagePool(total), set(range(total)), list[tuple[int, ...]]()
    for reserving, number in history:
        if reserving:
            pages = pool.reserve(number)
            assert (pages is None) == (number > len(free))
            if pages is not None:
                assert len(set(pages)) == len(pages) == number
                assert free.issuperset(pages)
                free.difference_update(pages)
                held.append(pages)
        elif held:
            pages = held.pop(number % len(held))
            pool.release(pages)
            free.update(pages)
        assert (pool.free, pool.in_use) == (len(free), total - len(free))
    for pages in held:
        pool.release(pages)
    assert pool.reserve(total) == tuple(range(total))
    #      all are back, and joined to one run again


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=12),
    asked=st.integers(1, 8),
    data=st.data(),
)
def test_pages_are_consecutive_where_a_long_enough_run_is_free(
    sizes: list[int], asked: int, data: st.DataObject
) -> None:
    pool = PagePool(sum(sizes))
    held = [pool.reserve(size) for size in sizes]
    back = data.draw(st.sets(st.sampled_from(range(len(sizes)))))
    free = set[int]()
    for i in sorted(back):
        pages = held[i]
        assert pages is not None
        pool.release(pages)
        free.update(pages)
    run_is_free = any(free.issuperset(range(page, page + asked)) for page in free)

    got = pool.reserve(asked)

    assert (got is None) == (asked > len(free))
    if run_is_free:
        assert got is not None
        assert got == tuple(range(got[0], got[0] + asked))


def test_scattered_pages_are_handed_out_rather_than_none() -> None:
    pool = PagePool(6)
    first, second, third = pool.reserve(2), pool.reserve(2), pool.reserve(2)
    assert (first, second, third) == ((0, 1), (2, 3), (4, 5))
    pool.release((0, 1))
    pool.release((4, 5))
    assert pool.reserve(3) == (0, 1, 4)
    assert pool.reserve(1) == (5,)
    assert pool.reserve(1) is None


@pytest.mark.parametrize("again", [(3,), (0,), (9,), (2, 3, 4)])
def test_a_page_that_is_released_twice_is_our_mistake_and_says_so(again: tuple[int, ...]) -> None:
    pool = PagePool(10)
    pages = pool.reserve(10)
    assert pages is not None
    pool.release((0, 3, 9))
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(again)
