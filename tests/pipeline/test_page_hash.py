"""Pages have the same name exactly if nothing before their end differs, the tenant included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeserve.pipeline.page_hash import PageHashes

TOKENS = list(range(100, 180))


def test_only_full_pages_have_a_name() -> None:
    assert len(PageHashes("").extend(TOKENS[:15])) == 0
    assert len(PageHashes("").extend(TOKENS[:16])) == 1
    assert len(PageHashes("").extend(TOKENS[:79])) == 4


def test_a_page_is_named_after_all_that_stands_before_it() -> None:
    here = PageHashes("").extend(TOKENS)
    changed = [0, *TOKENS[1:]]
    there = PageHashes("").extend(changed)
    assert not set(here) & set(there)
    later = PageHashes("").extend([*TOKENS[:40], 0, *TOKENS[41:]])
    assert [a == b for a, b in zip(here, later, strict=True)] == [True, True, False, False, False]


def test_tenants_never_meet() -> None:
    assert not set(PageHashes("Bearer a").extend(TOKENS)) & set(
        PageHashes("Bearer b").extend(TOKENS)
    )
    assert PageHashes("Bearer a").extend(TOKENS) == PageHashes("Bearer a").extend(TOKENS)


@given(st.lists(st.integers(0, 80), max_size=6))
def test_names_do_not_depend_on_how_the_tokens_came(ends: list[int]) -> None:
    hashes = PageHashes("x")
    found: list[bytes] = []
    for end in sorted([*ends, 80]):
        found += hashes.extend(TOKENS[:end])
    assert tuple(found) == PageHashes("x").extend(TOKENS)
