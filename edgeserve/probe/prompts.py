"""Prompts of no meaning, each unlike any other, so that no cache of prefixes can help."""

from __future__ import annotations

import random

WORDS = (
    "water stone light river green small house morning people under never every simple paper "
    "window road garden number story winter answer letter ground music north silver market round "
    "second family evening apple bridge yellow master summer finger island corner second kitchen"
).split()
SPARE_WORDS = 8


def prompt_text(tokens: int, seed: str) -> str:
    """At least `tokens` tokens in any vocabulary: a word is never less than one."""
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(tokens + SPARE_WORDS))
