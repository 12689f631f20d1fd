"""Cuts a model's layers over workers, in the order in which they are named. Exact, and repeatable.

Of all cuts in which every slice fits, those whose slowest stage is fastest; of these, those that
leave the fullest worker room for the most tokens; of these, those that a lone token crosses
fastest; and of these, the one with the fewest layers on the first worker, then on the second, and
so on.

All layers are alike, so the cost of a stage follows from its worker and its number of layers. What
a cut means to people, and what to do when there is none, is for `planner.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgeserve.cost.reserve import loading_bytes, workspace
from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.plan.facts import WorkerFacts

SPEED_DIGITS = 2
"""Significant digits of a measured bandwidth that count. Two measurements of one card differ by 1
or 2 %, and a plan that changed with them would load every slice again."""

Cost = TypeVar("Cost", int, tuple[int, ...])


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A model, and the workers that are to hold it."""

    spec: ModelSpec
    dtype: Dtype
    workers: tuple[WorkerFacts, ...]
    min_tokens: int
    """Whose keys and values every worker must have room for, beside its slice."""
    frame_tokens_max: int = 0
    """Longer frames take more memory on a GPU."""

    def stage(self, worker: int, count: int) -> Stage:
        """Stands for every stage of `count` layers on the worker, wherever it starts."""
        last = worker == len(self.workers) - 1
        return Stage(LayerRange(0, count), embedding=worker == 0, head=last)

    def slice_bytes(self, worker: int, count: int) -> int:
        return self.spec.stage_bytes(self.stage(worker, count), self.dtype)

    def page_bytes(self, count: int) -> int:
        return self.spec.kv_bytes_per_token(count, self.dtype) * PAGE_TOKENS

    def reserve_bytes(self, worker: int, count: int) -> int:
        """For the runtime, and on a GPU for what the stage takes while it computes."""
        facts = self.workers[worker]
        if not facts.is_gpu:
            return facts.reserve_bytes
        stage = self.stage(worker, count)
        taken = workspace(self.spec, stage, self.dtype, self.frame_tokens_max)
        return facts.reserve_bytes + taken.bytes

    def free_bytes(self, worker: int, count: int) -> int:
        """For pages. Negative if the slice alone is too much."""
        taken = self.reserve_bytes(worker, count) + self.slice_bytes(worker, count)
        return self.workers[worker].memory_bytes - taken

    def pages_fit(self, worker: int, count: int) -> int:
        return self.free_bytes(worker, count) // self.page_bytes(count)

    def needed_bytes(self, worker: int, count: int) -> int:
        """For the reserve, the slice and the fewest pages; or for loading, if that is more."""
        held = self.reserve_bytes(worker, count) + self.slice_bytes(worker, count)
        return held + max(self._pages_bytes(count), self._loading_bytes(worker, count))

    def loading_decides(self, worker: int, count: int) -> bool:
        """Whether loading takes more than the fewest pages, for which it has to make room."""
        return self._loading_bytes(worker, count) > self._pages_bytes(count)

    def _pages_bytes(self, count: int) -> int:
        """The fewest."""
        return math.ceil(self.min_tokens / PAGE_TOKENS) * self.page_bytes(count)

    def _loading_bytes(self, worker: int, count: int) -> int:
        if not self.workers[worker].is_gpu:
            return 0
        return loading_bytes(self.spec, self.stage(worker, count), self.dtype)

    def missing_bytes(self, worker: int, count: int) -> int:
        """What the worker lacks of them; 0 if they fit."""
        return max(0, self.needed_bytes(worker, count) - self.workers[worker].memory_bytes)

    def layers_fit(self, worker: int) -> int:
        """The most layers that the worker has room for; 0 if not even one."""
        counts = range(1, self.spec.layers + 1)
        return sum(self.missing_bytes(worker, count) == 0 for count in counts)

    def relative_time(self, worker: int, count: int, slowness: Sequence[int]) -> int:
        """Of one step: bytes read over bandwidth, in a unit that makes these whole numbers."""
        read = self.spec.read_bytes(self.stage(worker, count), self.dtype)
        return read * slowness[worker]


def partition(problem: Problem) -> tuple[int, ...] | None:
    """Layers for each worker, or None if they do not fit."""
    slowness = relative_slowness([each.read_bytes_per_s for each in problem.workers])
    layers = problem.spec.layers

    def time(worker: int, count: int) -> int:
        return problem.relative_time(worker, count, slowness)

    def feasible_time(worker: int, count: int) -> int | None:
        return None if problem.missing_bytes(worker, count) else time(worker, count)

    slowest = best_cut(len(slowness), layers, feasible_time, max)
    if slowest is None:
        return None

    # Negated, since the best is the least.
    def scarcity(worker: int, count: int) -> int | None:
        fits = feasible_time(worker, count)
        return None if fits is None or fits > slowest else -problem.pages_fit(worker, count)

    scarcest = best_cut(len(slowness), layers, scarcity, max)
    assert scarcest is not None

    def lap(worker: int, count: int) -> tuple[int, ...] | None:
        scarce = scarcity(worker, count)
        return None if scarce is None or scarce > scarcest else (time(worker, count), count)

    best = best_cut(len(slowness), layers, lap, sum_and_counts)
    assert best is not None
    return best[1:]


def closest_cut(problem: Problem) -> tuple[int, ...]:
    """Where the layers do not fit: the cut that asks least beyond what the fullest worker has."""
    workers, layers = len(problem.workers), problem.spec.layers
    most = best_cut(workers, layers, problem.missing_bytes, max)
    assert most is not None, "every worker can be given a layer: the planner has counted them"

    def lack(worker: int, count: int) -> tuple[int, ...] | None:
        missing = problem.missing_bytes(worker, count)
        return None if missing > most else (missing, count)

    best = best_cut(workers, layers, lack, sum_and_counts)
    assert best is not None
    return best[1:]


def relative_slowness(read_bytes_per_s: Sequence[float]) -> tuple[int, ...]:
    """Time for a byte on each worker, as whole numbers in the proportions of the rounded speeds."""
    if min(read_bytes_per_s) <= 0:
        return (1,) * len(read_bytes_per_s)
    speeds = [_rounded(each) for each in read_bytes_per_s]
    common = math.lcm(*speeds)
    return tuple(common // speed for speed in speeds)


def best_cut(
    workers: int,
    layers: int,
    cost: Callable[[int, int], Cost | None],
    combine: Callable[[Cost, Cost], Cost],
) -> Cost | None:
    """The least combined cost of giving `layers` to `workers`, each at least one; None if no way.

    `cost(worker, count)` is None where the worker cannot take as many. `combine` must not make a
    better whole of a worse beginning. Exact, by dynamic programming: ten workers and a hundred
    layers are 40,000 additions, so there is no reason to be clever.
    """
    # reached[end] is the least cost at which the workers so far hold layers [0, end).
    reached = {count: cost(0, count) for count in range(1, layers - workers + 2)}
    for worker in range(1, workers):
        costs = {count: cost(worker, count) for count in range(1, layers - workers + 2)}
        reached = {
            end: min(_extensions(reached, costs, end, combine), default=None)
            for end in range(worker + 1, layers - workers + worker + 2)
        }
    return reached.get(layers)


def sum_and_counts(before: tuple[int, ...], stage: tuple[int, ...]) -> tuple[int, ...]:
    """(sum, counts...) and (addend, count): the sum decides, between equals the counts in order."""
    return (before[0] + stage[0], *before[1:], stage[1])


def _extensions(
    reached: dict[int, Cost | None],
    costs: dict[int, Cost | None],
    end: int,
    combine: Callable[[Cost, Cost], Cost],
) -> Iterator[Cost]:
    """Every way to add one more stage that ends at `end`."""
    for count, added in costs.items():
        before = reached.get(end - count)
        if before is not None and added is not None:
            yield combine(before, added)


def _rounded(speed: float) -> int:
    return int(float(f"{speed:.{SPEED_DIGITS - 1}e}"))
