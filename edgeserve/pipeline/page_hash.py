"""Names for full pages: equal if and only if their tokens, all tokens before them and their tenant
are.

The tenant goes in first, so a request can never meet another tenant's pages, nor learn from its own
speed that they are there.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from edgeserve.families.spec import PAGE_TOKENS

DIGEST_BYTES = 16
"""By chance two of 2^32 pages are alike once in 2^64; on purpose takes 2^64 attempts."""


class PageHashes:
    """Of one sequence. `extend` hashes what has become full since."""

    def __init__(self, tenant: str) -> None:
        self._last = hashlib.blake2b(tenant.encode(), digest_size=DIGEST_BYTES).digest()
        self._pages = 0

    def extend(self, tokens: Sequence[int]) -> tuple[bytes, ...]:
        """`tokens` are all of the sequence."""
        if len(tokens) < (self._pages + 1) * PAGE_TOKENS:
            return ()
        new = []
        for start in range(self._pages * PAGE_TOKENS, len(tokens) - PAGE_TOKENS + 1, PAGE_TOKENS):
            page = struct.pack(f"<{PAGE_TOKENS}I", *tokens[start : start + PAGE_TOKENS])
            self._last = hashlib.blake2b(self._last + page, digest_size=DIGEST_BYTES).digest()
            new.append(self._last)
        self._pages += len(new)
        return tuple(new)
