"""How long a stage may be silent before it counts as lost. Pure arithmetic on measured times.

A stage that has frames and answers none for ten times as long as its slowest frame of that size
took is not slow, it is gone. Before anything is measured, the operator's bound holds alone.
"""

from __future__ import annotations

from dataclasses import dataclass

TIMES_EXPECTED = 10.0
FLOOR_S = 5.0  # a garbage collection, a swapped page or a busy neighbour is not a death


@dataclass(kw_only=True)
class SilenceBound:
    """For one stage."""

    ceiling_s: float
    """The operator's --step-timeout."""
    _slowest_s: float = 0.0
    _slowest_s_per_token: float = 0.0

    def measured(self, tokens: int, held_s: float) -> None:
        """The stage held a frame of `tokens` tokens for `held_s`."""
        self._slowest_s = max(self._slowest_s, held_s)
        self._slowest_s_per_token = max(self._slowest_s_per_token, held_s / max(1, tokens))

    def bound_s(self, tokens: int) -> float:
        """For a frame of `tokens` tokens."""
        if self._slowest_s == 0.0:
            return self.ceiling_s
        expected_s = max(self._slowest_s, tokens * self._slowest_s_per_token)
        return min(self.ceiling_s, max(FLOOR_S, TIMES_EXPECTED * expected_s))
