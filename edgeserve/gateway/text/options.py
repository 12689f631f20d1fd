"""What of an answer's tokens its text shows, beyond the stop strings that end it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The defaults show what a reader wants to see."""

    min_tokens: int = 0
    """No stop string is looked for in the text of so many first tokens."""
    shows_specials: bool = False
    """Whether special tokens are written out."""
    keeps_stop: bool = False
    """Whether the text has what stopped it: the stop string, or the text of the stop token."""


PLAIN = TextOptions()
