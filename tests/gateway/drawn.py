"""Answers drawn at random from what a guide allows, as a model without any sense would give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from edgeserve.pipeline.generation import Guide, Order


def allowed(guide: Guide, vocab: int) -> list[int]:
    """The tokens that may come next."""
    bits = np.unpackbits(np.frombuffer(guide.mask(), dtype=np.uint8), bitorder="little")
    ids: list[int] = np.flatnonzero(bits[:vocab]).tolist()
    return ids


def drawn(vocab: int, seed: int = 0) -> Callable[[Order], Sequence[int]]:
    """For a `FakeEngine`: all of an answer, which ends where it may."""
    draw = random.Random(seed)

    def reply(order: Order) -> list[int]:
        assert order.guide is not None, "nothing holds this answer"
        tokens: list[int] = []
        while len(tokens) < order.max_new_tokens:
            may = allowed(order.guide, vocab)
            ends = sorted(order.stop_ids.intersection(may))
            if ends:
                return [*tokens, ends[0]]
            tokens.append(draw.choice(may))
            order.guide.advance(tokens[-1])
        return tokens

    return reply
