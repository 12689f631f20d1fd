r"""Finds stop strings in a text that comes in pieces. Pure: text in, text out.

What was given out cannot be taken back, so the end of the text is held back for as long as it may
be the beginning of a stop string. The stop string itself is given out only if that is asked for,
and nothing after it ever is: TGI leaves the string in the answer, OpenAI does not, and here no
route does of its own accord.

A special token has no text, but a stop string may name one, alone or within other text. It then
stands in both as one letter that no text can hold, half of a surrogate pair, and is not given out:

    stop "bye<|end|>"    ->  "bye\ud800"
    "good", "bye", <|end|>   ->  "goodbye\ud800"  ->  "good" is given out
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_UNSEEN = re.compile("[\ud800-\udfff]")
UNSEEN_FIRST, UNSEEN_COUNT = 0xD800, 0x800


class StopFilter:
    """`found` is the stop string that ended the text, once there is one. `specials` are the texts
    of special tokens.

    Of several stop strings, the one that is complete first counts, and of those the longest; so it
    does not matter how the text was cut into pieces.
    """

    def __init__(
        self, stops: Sequence[str], specials: Iterable[str] = (), *, keeps_stop: bool = False
    ) -> None:
        assert all(stops), "an empty stop string would stop everything"
        self.found: str | None = None
        self._stops = tuple(stops)
        self._keeps_stop = keeps_stop
        self._letters = _letters(stops, specials)
        self._with_specials = _spelt(stops, self._letters)
        self._held = ""

    def push(self, text: str) -> str:
        """What can be given out of the text so far. Nothing more once a stop string was found."""
        if self.found is not None:
            return ""
        text = self._held + text
        found = [*_places(text, self._with_specials), *_seen_places(text, self._stops)]
        if found:
            _, start, spelt = min(found)
            self.found = self._with_specials.get(spelt, spelt)
            self._held = ""
            return _UNSEEN.sub("", text[:start]) + (self.found if self._keeps_stop else "")
        return self._hold(text)

    def push_special(self, text: str) -> str:
        """As `push`, of a special token that would be spelt so if it had a text."""
        return self.push(self._letters.get(text, ""))

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return _UNSEEN.sub("", held)

    def _hold(self, text: str) -> str:
        """Keeps what may be the beginning of a stop string, and gives out the rest."""
        begun = len(text) - max((begun_length(text, s) for s in self._with_specials), default=0)
        head, tail = _UNSEEN.sub("", text[:begun]), text[begun:]
        seen = head + _UNSEEN.sub("", tail)
        start = len(seen) - max((begun_length(seen, s) for s in self._stops), default=0)
        self._held = head[start:] + tail
        return head[:start]


def _letters(stops: Sequence[str], specials: Iterable[str]) -> dict[str, str]:
    """For each special token that a stop string names, what stands for it."""
    if not stops:
        return {}
    named = [text for text in specials if text and any(text in stop for stop in stops)]
    return {text: chr(UNSEEN_FIRST + i) for i, text in enumerate(named[:UNSEEN_COUNT])}


def _spelt(stops: Iterable[str], letters: Mapping[str, str]) -> dict[str, str]:
    """The stop strings that name special tokens, by what they look like in the text."""
    if not letters:
        return {}
    longest_first = sorted(letters, key=len, reverse=True)
    named = re.compile("|".join(map(re.escape, longest_first)))
    spelt = {named.sub(lambda found: letters[found[0]], stop): stop for stop in stops}
    return {look: stop for look, stop in spelt.items() if look != stop}


def _places(text: str, stops: Iterable[str]) -> list[tuple[int, int, str]]:
    """End, start and stop string of those that are in the text."""
    starts = ((text.find(stop), stop) for stop in stops)
    return [(start + len(stop), start, stop) for start, stop in starts if start >= 0]


def _seen_places(text: str, stops: Iterable[str]) -> list[tuple[int, int, str]]:
    """The same, of a text of which some letters are not seen."""
    if not _UNSEEN.search(text):
        return _places(text, stops)
    at = [i for i, letter in enumerate(text) if not _UNSEEN.match(letter)]
    found = _places("".join(text[i] for i in at), stops)
    return [(at[end - 1] + 1, at[start], stop) for end, start, stop in found]


def begun_length(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`; it holds no whole
    one.
    """
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
