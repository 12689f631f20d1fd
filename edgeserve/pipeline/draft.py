"""Guesses what comes next from what was said before, so that one step can confirm several tokens.

Prompt lookup (apoorvumang/prompt-lookup-decoding): if the newest tokens have stood somewhere
before, what followed them there may follow here. It costs a dictionary; where answers quote their
prompt (summaries, code, extraction) it is right for many tokens in a row, in free talk it rarely
guesses at all. The last stage computes what it would have sampled anyway and drafts that differ are
thrown away, so the answer stays the same; what is at stake is time only. Hence the caution: the
length follows the success, and a sequence whose guesses were wrong pauses.
"""

from __future__ import annotations

from collections.abc import Sequence

MATCHES = (3, 2)
"""So many tokens must have stood together before. One alone stands in too many places."""
DRAFTS_AT_FIRST = 4
DRAFTS_MAX = 16
"""The scheduler takes fewer where they would cost time."""
SHARE_OF_NEWEST = 0.25
"""Of the moving average: half of it is the last two or three attempts."""
ACCEPTED_MIN = 0.3
"""Of the drafts. Below, a sequence pauses: a frame that is longer in vain delays all in it."""
PAUSE_TOKENS, PAUSE_TOKENS_MAX = 16, 256


class Lookup:
    """Where each short run of tokens stood last."""

    def __init__(self, tokens: list[int]) -> None:
        """`tokens` is the caller's list, which only grows."""
        self._tokens = tokens
        self._end_of: dict[tuple[int, ...], int] = {}
        self._known = 0
        self._remember(len(tokens) - 1)

    def following(self, count: int) -> list[int]:
        """Up to `count` tokens that followed the longest match; none if there is no match."""
        for size in MATCHES:
            end = self._end_of.get(tuple(self._tokens[-size:]))
            if end is not None:
                return self._tokens[end : end + count]
        return []

    def remember(self) -> None:
        """What is new; to be called behind `following`, or the newest run would find itself."""
        self._remember(len(self._tokens))

    def _remember(self, known: int) -> None:
        for size in MATCHES:
            for end in range(max(size, self._known + 1), known + 1):
                self._end_of[tuple(self._tokens[end - size : end])] = end
        self._known = max(0, known)


class Drafter:
    """For one sequence: `propose`, and then tell with `tried` how it went. `remember` takes time of
    its own, for when nobody waits.
    """

    def __init__(self, tokens: list[int], drafts: int | None) -> None:
        """`drafts` fixes how many; None lets success decide."""
        self._tokens = tokens
        self._lookup = Lookup(tokens)
        self._fixed = drafts
        self._drafts = DRAFTS_AT_FIRST if drafts is None else drafts
        self._accepted_share = 1.0
        self._pause = PAUSE_TOKENS
        self._paused_until = 0
        self.proposal: list[int] = []
        """Behind the newest token."""

    def propose(self, most: int) -> None:
        count = min(self._drafts, most)
        paused = len(self._tokens) < self._paused_until
        self.proposal = [] if paused or count < 1 else self._lookup.following(count)

    def remember(self) -> None:
        """What is new in `tokens`."""
        self._lookup.remember()

    def tried(self, drafts: int, accepted: int) -> None:
        """Of `drafts` tokens, the first `accepted` came true."""
        if drafts == 0 or self._fixed is not None:
            return
        self._accepted_share += SHARE_OF_NEWEST * (accepted / drafts - self._accepted_share)
        if accepted == drafts:
            self._drafts = min(DRAFTS_MAX, 2 * self._drafts)
            self._pause = PAUSE_TOKENS
        else:
            self._drafts = max(1, accepted + 1)
        if self._accepted_share < ACCEPTED_MIN:
            self._paused_until = len(self._tokens) + self._pause
            self._pause = min(PAUSE_TOKENS_MAX, 2 * self._pause)
            self._accepted_share = ACCEPTED_MIN  # one success, and it goes on


def accepted(sampled: Sequence[int], drafts: Sequence[int], stop_ids: frozenset[int]) -> int:
    """How many of `sampled` count: the first that differs from its draft, or ends the answer, is
    the last. `sampled` has one more than `drafts`.
    """
    for at, draft in enumerate(drafts):
        if sampled[at] != draft or sampled[at] in stop_ids:
            return at + 1
    return len(sampled)
