"""GET /trace: the last steps for Perfetto (https://ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from fastapi import APIRouter, Response

from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.openapi import JSON, LIST, STRING, documented, object_with
from edgeserve.timing.ledger import StageLabel
from edgeserve.timing.observer import Step
from edgeserve.timing.trace import trace_events


def trace_routes(state: AppState) -> APIRouter:
    router = APIRouter(tags=["cluster"])

    said = documented("/trace", (), {JSON: object_with(displayTimeUnit=STRING, traceEvents=LIST)})

    @router.get("/trace", responses=said)
    async def trace() -> Response:
        """The last steps as Chrome's trace format: one row for each stage, one for the gateway."""
        seen = await state.engine.seen()
        labels = [stage.label for stage in seen.observer.stages] if seen else []
        steps = tuple(seen.observer.steps) if seen else ()
        # 1000 steps of three stages take 0.1 s: too long for the loop that hands out tokens.
        body = await asyncio.to_thread(_document, labels, steps)
        return Response(body, media_type="application/json")

    return router


def _document(labels: Sequence[StageLabel], steps: Sequence[Step]) -> str:
    """Event by event, since one long call of the encoder would hold up the pipeline's thread."""
    events = ",\n".join(json.dumps(event) for event in trace_events(labels, steps))
    return f'{{"displayTimeUnit": "ms", "traceEvents": [\n{events}\n]}}\n'
