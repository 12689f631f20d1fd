"""Who holds which page, and which pages are worth keeping for the next prompt that begins alike.

A full page is named by a hash of its tokens and of all before them, so two sequences whose prompts
begin with the same pages can hold the same ones: a page is counted by its holders. When the last
one lets go of a page that has a name, it is kept, and given away only when pages are short, the
least recently used first. Nobody ever writes to a page that has a name: it is full.

Knows no tokens: hashes come from outside, with whatever salt keeps tenants apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgeserve.schedule.pages import PagePool


class PageHolders:
    """`reserve` and `release` tables of pages; `name` a page once its tokens are computed."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._clear()

    @property
    def in_use(self) -> int:
        """Held by somebody."""
        return len(self._holders)

    @property
    def kept(self) -> int:
        """Held by nobody, and still good for a prompt that begins alike."""
        return len(self._kept)

    def reserve(self, count: int, hashes: Sequence[bytes]) -> tuple[tuple[int, ...], int] | None:
        """A table of `count` pages, and how many of its first ones hold the pages of `hashes`
        already; None if there are too few.
        """
        shared = self._known(hashes[:count])
        new = count - len(shared)
        idle = len(self._kept) - sum(page in self._kept for page in shared)
        if new > self._pool.free + idle:
            return None
        for page in shared:
            self._kept.pop(page, None)
        self._give_up(new - self._pool.free)
        fresh = self._pool.reserve(new)
        assert fresh is not None
        table = (*shared, *fresh)
        for page in table:
            self._holders[page] = self._holders.get(page, 0) + 1
        return table, len(shared)

    def release(self, table: Sequence[int]) -> None:
        """The last pages of a table are the first to be given up: a beginning is shared more."""
        unnamed = []
        for page in reversed(table):
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            del self._holders[page]
            if page in self._hash_of:
                self._kept[page] = None
            else:
                unnamed.append(page)
        self._pool.release(tuple(unnamed))

    def name(self, page: int, page_hash: bytes) -> None:
        """The page is full and computed. Of two with the same tokens, the first is kept."""
        assert page in self._holders, f"page {page} is nobody's"
        if page_hash not in self._page_of and page not in self._hash_of:
            self._page_of[page_hash] = page
            self._hash_of[page] = page_hash

    def forget_names(self) -> None:
        """What the pages held is lost. Nobody may hold one."""
        assert not self._holders
        self._clear()

    def _clear(self) -> None:
        self._pool = PagePool(self.total)
        self._holders: dict[int, int] = {}
        self._page_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._kept: dict[int, None] = {}  # in the order in which they were let go

    def _known(self, hashes: Iterable[bytes]) -> list[int]:
        """The pages of the longest beginning that is known."""
        found = []
        for each in hashes:
            page = self._page_of.get(each)
            if page is None:
                break
            found.append(page)
        return found

    def _give_up(self, count: int) -> None:
        """Makes free the `count` pages that were let go the longest ago."""
        given_up = [page for page, _ in zip(self._kept, range(count), strict=False)]
        for page in given_up:
            del self._kept[page]
            del self._page_of[self._hash_of.pop(page)]
        self._pool.release(tuple(given_up))
