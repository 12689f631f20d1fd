"""Finds stop strings in a text that comes in pieces. Pure: text in, text out.

What was given out cannot be taken back, so the end of the text is held back for as long as it may
be the beginning of a stop string. The stop string itself is never given out, and neither is
anything after it: TGI leaves the string in the answer, OpenAI does not, and here no route does.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """`found` is the stop string that ended the text, once there is one.

    Of several, the one that is complete first counts, and of those the longest; so it does not
    matter how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would stop everything"
        self.found: str | None = None
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """What can be given out of the text so far. Nothing more once a stop string was found."""
        if self.found is not None:
            return ""
        text = self._held + text
        found = [stop for stop in self._stops if stop in text]
        if found:
            end, _, self.found = min((text.index(s) + len(s), -len(s), s) for s in found)
            self._held = ""
            return text[: end - len(self.found)]
        keep = max((begun_length(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def begun_length(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`; it holds no whole
    one.
    """
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
