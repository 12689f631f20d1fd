"""How many prompt tokens may travel with the decodes of others.

A decode waits for the prompt tokens in its own frame, and for those in the frames that it meets at
each stage. How much that costs depends on the devices, on how many of them share a processor and on
the contexts; so the share is steered by what it did: a step that prompts slowed down by more than
was allowed makes it smaller, one that had its full share within the bound makes it larger. It is
kept from one prompt to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CHUNK_AT_FIRST = 64
"""In each stage's frame: next to no delay on a GPU, whose weights take as long to read as about so
many tokens to compute. A CPU has found its own share after a few steps."""
CHUNK_MIN = 16
"""Smaller chunks are not worth a frame of their own."""
TOKENS_MIN = 8
GROWTH_MAX, SHRINKAGE_MAX = 1.2, 0.25
"""Of a step. Too much at once is a delay that somebody sees; too little is made up for soon."""


@dataclass(kw_only=True)
class PromptShare:
    frames: int
    """In flight at once: one of them carries a decode, and all are in its way."""
    chunk_max: int
    slowdown_max: float
    """How many times as long a decode's step may take because of other requests' prompts."""
    tokens: float = field(init=False)
    """In all frames of one step of the decodes together."""

    def __post_init__(self) -> None:
        self.tokens = self.frames * min(CHUNK_AT_FIRST, self.chunk_max)

    def chunk(self, carries_decodes: bool) -> int:
        """Prompt tokens in the next frame: the same in each frame, or if they are few, all in the
        one that also carries decodes.
        """
        per_frame = int(self.tokens / self.frames)
        if per_frame >= CHUNK_MIN:
            return min(self.chunk_max, per_frame)
        return min(self.chunk_max, int(self.tokens)) if carries_decodes else 0

    def learn(self, slowdown: float, had_full_share: bool) -> None:
        """A step of decodes took `slowdown` times as long as without prompts."""
        factor = min(GROWTH_MAX, max(SHRINKAGE_MAX, self.slowdown_max / max(1.0, slowdown)))
        if factor < 1 or had_full_share:
            tokens = self.tokens * factor
            self.tokens = min(max(tokens, TOKENS_MIN), self.frames * self.chunk_max)
