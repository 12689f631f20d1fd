"""How far a stage's files have come, told by the thread that fetches to the one that asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(kw_only=True)
class FetchProgress:
    bytes_done: int = 0
    bytes_total: int = 0
    """0 until the hub has listed the files."""
    folder: Path | None = None
    """Where files grow while they come."""
    cancelled: bool = False
    """Nobody waits any more: fetching ends with the next piece that arrives."""
    _folder_bytes: int = 0

    def moved(self) -> bool:
        """Whether the folder grew since this was last asked.

        Also by another worker of this box: who wants a file that it is fetching waits for it.
        """
        before, self._folder_bytes = self._folder_bytes, _bytes_in(self.folder)
        return self._folder_bytes != before


def _bytes_in(folder: Path | None) -> int:
    """Files come and go while this looks."""
    found = 0
    for path in folder.glob("*") if folder else ():
        try:
            found += path.stat().st_size
        except OSError:
            continue
    return found
