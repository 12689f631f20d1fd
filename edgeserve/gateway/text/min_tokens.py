"""An answer that may not end before it has some tokens: what would end it is masked until then.

A `pipeline.generation.Guide`, so that the last stage, which chooses, needs to know no more than
which tokens may come. Refuses to know what the tokens say.
"""

from __future__ import annotations

from collections.abc import Iterable


class MinTokens:
    """The first `count` tokens are none of `stop_ids`, of a vocabulary of `vocab`."""

    def __init__(self, count: int, stop_ids: Iterable[int], vocab: int) -> None:
        allowed = bytearray(b"\xff") * ((vocab + 7) // 8)
        for token in stop_ids:
            allowed[token // 8] &= ~(1 << token % 8) & 0xFF
        self._mask = bytes(allowed)
        self._left = count

    def mask(self) -> bytes:
        """A bit for each token, set if it may come next; empty once all may."""
        return self._mask if self._left > 0 else b""

    def advance(self, token: int) -> None:  # noqa: ARG002  # any token counts
        self._left -= 1
