"""What the settings, the model and the plan come to as limits of a schedule."""

from __future__ import annotations

from collections.abc import Sequence

from edgeserve.config import GatewaySettings
from edgeserve.families.folder import ModelSource
from edgeserve.pipeline.cluster import Member, prefill_chunk, processors
from edgeserve.plan.facts import Plan
from edgeserve.schedule.limits import Limits
from edgeserve.timing.ledger import StageLabel


def limits_for(
    settings: GatewaySettings, source: ModelSource, members: Sequence[Member], plan: Plan
) -> Limits:
    return Limits(
        stages=len(plan.stages),
        processors=processors(members),
        pages=plan.pages,
        context_tokens=source.spec.context_tokens,
        micro_batches=settings.micro_batches or None,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        prefill_chunk=prefill_chunk(settings, members),
        decode_slowdown=settings.decode_slowdown,
        queue_timeout_s=settings.queue_timeout,
        prefix_cache=settings.prefix_cache == "on",
    )


def stage_labels(plan: Plan) -> tuple[StageLabel, ...]:
    return tuple(
        StageLabel(
            stage=i, worker=each.worker, layers=(each.stage.layers.start, each.stage.layers.end)
        )
        for i, each in enumerate(plan.stages)
    )


def drafts_of(speculate: str) -> int | None:
    """Tokens to try behind a sequence's newest one: 0 for none, None for as many as come true."""
    return None if speculate == "auto" else 0 if speculate == "off" else int(speculate)
