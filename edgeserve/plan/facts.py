"""What the planner is told of a cluster, and what it decides. Data only.

Memory is what a worker may use for its slice, its pages and its workspace together.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve.families.spec import PAGE_TOKENS, Dtype, ModelSpec
from edgeserve.frames.stage import Stage


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """One box, as the planner sees it."""

    name: str
    """HOST:PORT, or 'worker 0' where there is no box yet."""
    memory_bytes: int
    reserve_bytes: int
    """Of it, kept for what the runtime takes, whatever the worker holds."""
    is_gpu: bool = False
    """Then its stage takes memory beside slice and pages, by `cost.reserve.workspace`. On a CPU
    the reserve covers it."""
    read_bytes_per_s: float = 0.0
    """Measured memory bandwidth; 0 where unknown, then all count as equal."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage on one worker."""

    stage: Stage
    worker: str
    slice_bytes: int
    reserve_bytes: int
    """For the runtime and for what computing takes."""
    free_bytes: int
    """What is left for pages after slice and reserve."""
    page_bytes: int
    """One page on all layers of the stage."""

    @property
    def pages_fit(self) -> int:
        return self.free_bytes // self.page_bytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Stages to workers, in pipeline order."""

    spec: ModelSpec
    dtype: Dtype
    stages: tuple[StagePlan, ...]
    pages: int
    """The same on every stage: what the fullest one has room for, or fewer if fewer can be used."""
    frame_tokens_max: int
    """What the reserve was computed for."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that all sequences together can hold."""
        return self.pages * PAGE_TOKENS

    @property
    def layer_counts(self) -> tuple[int, ...]:
        return tuple(len(each.stage.layers) for each in self.stages)
