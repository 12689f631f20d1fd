"""How the next token is chosen from a row of logits, as data. `model/sampling.py` chooses."""

from __future__ import annotations

from dataclasses import dataclass

SEED_MAX = 2**64 - 1
"""Seeds are the 64-bit key of a counter-based generator."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The defaults are greedy.

    The order of the filters is that of transformers: repetition penalty, temperature, top-k, top-p,
    min-p.
    """

    temperature: float = 0.0
    """0 is greedy: the most likely token. Otherwise logits are divided by it."""
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most likely tokens that together reach this probability."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Logits of tokens seen so far are divided by it if positive, multiplied if negative
    (arXiv:1909.05858).
    """
    seed: int = 0

    @property
    def needs_history(self) -> bool:
        """Whether the last stage has to know which tokens came before."""
        return self.repetition_penalty != 1.0
