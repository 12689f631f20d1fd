"""Which pages are free. The same page numbers mean the same sequence on every stage, so one pool
serves the pipeline.

Pages are handed out in consecutive runs where possible: a stage reads a run in place and must
gather a scattered table.
"""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple


class PageRun(NamedTuple):
    """Pages [start, end)."""

    start: int
    end: int


class PagePool:
    """`reserve` and `release` pages; neither ever splits what it was asked for between calls."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._runs = [PageRun(0, total)] if total else []

    @property
    def in_use(self) -> int:
        return self.total - self.free

    def reserve(self, count: int) -> tuple[int, ...] | None:
        """`count` pages, or None if there are not as many."""
        if count > self.free:
            return None
        self.free -= count
        return self._one_run(count) or self._several_runs(count)

    def release(self, pages: tuple[int, ...]) -> None:
        """Gives pages back. Releasing a free page is our mistake, never the world's."""
        for run in _runs_of(pages):
            insort(self._runs, run)
        self.free += len(pages)
        self._runs = _joined(self._runs)

    def _one_run(self, count: int) -> tuple[int, ...]:
        for i, run in enumerate(self._runs):
            if run.end - run.start >= count:
                self._take(i, count)
                return tuple(range(run.start, run.start + count))
        return ()

    def _several_runs(self, count: int) -> tuple[int, ...]:
        taken: list[int] = []
        while len(taken) < count:
            start, end = self._runs[0]
            part = min(count - len(taken), end - start)
            self._take(0, part)
            taken.extend(range(start, start + part))
        return tuple(taken)

    def _take(self, i: int, count: int) -> None:
        """Removes the first `count` pages of run i."""
        start, end = self._runs[i]
        self._runs[i : i + 1] = [PageRun(start + count, end)] if start + count < end else []


def _runs_of(pages: tuple[int, ...]) -> list[PageRun]:
    return _joined([PageRun(page, page + 1) for page in sorted(pages)])


def _joined(runs: list[PageRun]) -> list[PageRun]:
    """Sorted runs with neighbours merged."""
    joined: list[PageRun] = []
    for run in runs:
        assert not joined or joined[-1].end <= run.start, f"page {run.start} was released twice"
        if joined and joined[-1].end == run.start:
            joined[-1] = PageRun(joined[-1].start, run.end)
        else:
            joined.append(run)
    return joined
