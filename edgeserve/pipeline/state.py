"""What a pipeline shows of itself: a state taken at one moment, and the document of /v1/cluster.

The pipeline's thread alone changes its scheduler, its records and its stages, so it alone copies
them; the HTTP side's thread gets the copy, and reads nothing else. Whatever is costly, such as
medians, is computed of the copy, on the thread of whoever asks.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edgeserve.families.folder import ModelSource
from edgeserve.families.spec import PAGE_TOKENS
from edgeserve.pipeline.cluster import LoadedStage, worker_facts
from edgeserve.pipeline.generation import Seen, Status
from edgeserve.plan.facts import Plan
from edgeserve.plan.resplit import better_layers
from edgeserve.schedule.limits import Statistics
from edgeserve.timing.hop import Hop
from edgeserve.timing.observer import Observer
from edgeserve.timing.straggler import Straggling


@dataclass(frozen=True, kw_only=True)
class StageState:
    """One stage of the pipeline that was built last."""

    number: int
    stage: LoadedStage
    hops: tuple[Hop, ...]
    """The recent ones."""


@dataclass(frozen=True, kw_only=True)
class ClusterState:
    """Nothing in it changes any more."""

    plan: Plan | None = None
    """None until there is one; then so is the rest."""
    statistics: Statistics = field(default_factory=Statistics)
    observer: Observer = field(default_factory=lambda: Observer(()))
    """A copy."""
    stages: tuple[StageState, ...] = ()

    @property
    def seen(self) -> Seen | None:
        """None until there is a plan."""
        if self.plan is None:
            return None
        return Seen(observer=self.observer, statistics=self.statistics, pages=self.plan.pages)

    def straggling(self, stage: int) -> Straggling | None:
        return self.observer.stragglers.now[stage]


def cluster_document(
    source: ModelSource, status: Status, state: ClusterState, now_s: float
) -> dict[str, Any]:
    """GET /v1/cluster."""
    plan, requests = state.plan, state.observer.requests
    return {
        "model": source.name,
        "revision": source.revision,
        "dtype": plan.dtype.value if plan else None,
        "weights": "random" if source.random_weights else "real",
        "simulation": status.simulation,
        "status": {
            "phase": status.phase,
            "reason": status.reason,
            "stage": status.stage,
            "worker": status.worker,
        },
        **_schedule_document(plan, state.statistics),
        "generated_tokens": requests.tokens,
        "tokens_per_s": requests.rate.recent(now_s),
        "better_layers": _better_layers(state),
        "stages": [_stage_document(each, state, now_s) for each in state.stages],
    }


def median_ms(hops: Sequence[Hop]) -> dict[str, float]:
    """By kind."""
    splits = [hop.split for hop in hops]
    by_kind = {
        "compute_ms": [split.compute_s for split in splits],
        "transfer_ms": [split.transfer_s for split in splits],
        "waiting_ms": [split.waiting_s for split in splits],
        "other_ms": [
            max(0.0, hop.round_trip_s - split.total_s)
            for hop, split in zip(hops, splits, strict=True)
        ],
    }
    return {
        kind: round(1e3 * statistics.median(times), 4) if times else 0.0
        for kind, times in by_kind.items()
    }


def _schedule_document(plan: Plan | None, now: Statistics) -> dict[str, Any]:
    """What the scheduler has, and what it has learned."""
    return {
        "pages": {
            "total": plan.pages if plan else 0,
            "in_use": now.pages_in_use,
            "kept": now.pages_kept,
            "page_tokens": PAGE_TOKENS,
        },
        "requests": {"running": now.running, "waiting": now.waiting},
        "micro_batches": now.micro_batches,
        "step_ms": now.step_ms,
        "prompt_share": now.prompt_share,
        "prompt_tokens": now.prompt_tokens,
        "cached_tokens": now.cached_tokens,
    }


def _better_layers(state: ClusterState) -> list[int] | None:
    """The cut that would be best while a stage straggles, if it is another one."""
    stragglers = state.observer.stragglers
    if state.plan is None or not any(stragglers.now):
        return None
    workers = [worker_facts(each.stage.member) for each in state.stages]
    better = better_layers(state.plan, workers, stragglers.recent_s)
    return list(better) if better else None


def _stage_document(one: StageState, state: ClusterState, now_s: float) -> dict[str, Any]:
    stage, plan = one.stage, state.plan
    described, loaded = stage.member.description, stage.loaded
    return {
        "stage": one.number,
        "worker": stage.member.name,
        "device": described.device,
        "device_name": described.device_name,
        "simulation": described.simulation or None,
        "layers": [loaded.stage.layers.start, loaded.stage.layers.end],
        "embedding": loaded.stage.embedding,
        "head": loaded.stage.head,
        "memory_bytes": described.memory_bytes,
        "slice_bytes": loaded.slice_bytes,
        "slice_hash": loaded.slice_hash,
        "pages": loaded.pages,
        "load_s": round(loaded.load_s, 3),
        "weights": _weights_document(stage),
        **median_ms(one.hops),
        "page_bytes": plan.stages[one.number].page_bytes if plan else 0,
        "straggling": _straggling_document(state.straggling(one.number), now_s),
    }


def _straggling_document(found: Straggling | None, now_s: float) -> dict[str, float] | None:
    """By how much, and for how long."""
    if found is None:
        return None
    return {
        "percent": round(100 * found.slowdown, 1),
        "since_s": round(now_s - found.since_s, 1),
    }


def _weights_document(stage: LoadedStage) -> dict[str, Any]:
    """Where they came from when this gateway asked for them, and how many bytes it sent."""
    delivery = stage.delivery
    if delivery is None:
        own = "random" if stage.loaded.random_weights else "local"
        return {"from": own, "streamed_bytes": 0, "sent_bytes": 0}
    supplied = delivery.supplied
    return {
        "from": supplied.source,
        "held_bytes": supplied.held_bytes,
        "local_bytes": supplied.local_bytes,
        "cached_bytes": supplied.cached_bytes,
        "streamed_bytes": supplied.streamed_bytes,
        "sent_bytes": delivery.sent_bytes,
    }
