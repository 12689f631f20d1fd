"""In how many micro-batches the decoding sequences go through the stages.

With B sequences in G micro-batches, a token of each takes max(all stages + hops, G x the slowest
stage), each at B/G sequences. While a stage's time hardly depends on its batch, one micro-batch is
as good as any; where it grows with the batch (long contexts, big batches), one for each stage keeps
all stages busy. Stages that share a processor gain nothing: it takes G x all stages / processors.
Times are learned; if a promise is not kept, the change is undone and the next attempt comes later.
"""

from __future__ import annotations

import math

from edgeserve.schedule.step_times import StepTimes

GAIN = 1.02
"""A change is worth it from here; below it lies noise. On three paced RTX 3060, 24 sequences gain
3 % in two micro-batches, 8 gain 1 % (docs/LOG.md).
"""
PATIENCE = 16
"""Steps in a row that must ask for the same change: a second or two of decoding."""
PATIENCE_MAX = 4096


class Grouping:
    """Ask `micro_batches`; call `step` after each quiet step of the decodes."""

    def __init__(self, fixed: int | None, processors: int, stages: int) -> None:
        self.micro_batches = fixed or 1
        self.is_fixed = fixed is not None
        self._processors = processors
        self._stages = stages
        self._patience = PATIENCE
        self._asked = 1
        self._in_a_row = 0

    def step(self, sequences: int, times: StepTimes) -> None:
        if self.is_fixed or sequences == 0:
            return
        best = self._best(sequences, times)
        self._in_a_row = self._in_a_row + 1 if best == self._asked else 1
        self._asked = best
        if best != self.micro_batches and self._in_a_row >= self._patience:
            # Back so soon means that the times did not hold.
            self._patience = min(PATIENCE_MAX, 2 * self._patience)
            self.micro_batches = best
            self._in_a_row = 0

    def _best(self, sequences: int, times: StepTimes) -> int:
        now = min(self.micro_batches, sequences)
        choices = range(1, min(self._stages, sequences) + 1)
        best = min(choices, key=lambda each: self._cycle_s(sequences, each, times))
        gain = self._cycle_s(sequences, now, times) / self._cycle_s(sequences, best, times)
        return best if gain >= GAIN else self.micro_batches

    def _cycle_s(self, sequences: int, micro_batches: int, times: StepTimes) -> float:
        return max(1e-9, cycle_s(sequences, micro_batches, self._processors, times))


def cycle_s(sequences: int, micro_batches: int, processors: int, times: StepTimes) -> float:
    """Until each of the sequences has its next token; 0 as long as nothing was measured."""
    time = times.of(math.ceil(sequences / micro_batches))
    if time is None:
        return 0.0
    busiest_s = max(time.slowest_s, time.compute_s / processors)
    return max(time.total_s, micro_batches * busiest_s)
