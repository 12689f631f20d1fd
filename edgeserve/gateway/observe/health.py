"""Whether the process lives, whether the stages are there, and whether a token comes out.

A server can look ready for days and answer nobody, so /health wants proof: a frame that came back a
moment ago, or a token generated now. Answers of running requests are proof enough; only an idle
cluster is asked to work.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from edgeserve.errors import EdgeserveError, StageUnavailable
from edgeserve.frames.sampling import Sampling
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.openapi import JSON, STRING, documented, object_with
from edgeserve.pipeline.generation import Order, Status

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
"""Reachable without a key: whoever restarts containers has none."""
PROOF_AGE_S = 15.0
PROBE_S = 5.0


def health_routes(state: AppState) -> APIRouter:
    health = Health(state)
    router = APIRouter(tags=["health"])
    for path, serve, errors in (
        ("/livez", health.live, ()),
        ("/readyz", health.ready, (StageUnavailable,)),
        ("/health", health.works, (StageUnavailable,)),
    ):
        said = documented(path, errors, {JSON: object_with(status=STRING)})
        router.add_api_route(path, serve, responses=said)
    return router


class Health:
    def __init__(self, state: AppState, probe_s: float = PROBE_S) -> None:
        self._state = state
        self._probe_s = probe_s
        self._probe: asyncio.Task[str] | None = None

    async def live(self) -> dict[str, Any]:
        """The process answers. Says nothing about stages."""
        return {"status": "alive"}

    async def ready(self) -> dict[str, Any]:
        """All stages are connected and loaded."""
        _refuse_unready(self._state.engine.status())
        return {"status": "ready"}

    async def works(self) -> dict[str, Any]:
        """A token can be produced now."""
        status = self._state.engine.status()
        _refuse_unready(status)
        age_s = status.since_last_frame_s
        if age_s is None or age_s >= PROOF_AGE_S:
            await self._prove()
        return {"status": "ok"}

    async def _prove(self) -> None:
        """Whoever asks meanwhile waits for the same probe; none of them can cancel it for the
        others.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._one_token())
        failure = await asyncio.shield(self._probe)
        if failure:
            raise _unavailable(failure, self._state.engine.status())

    async def _one_token(self) -> str:
        """Why no token came; empty if one did."""
        try:
            async with asyncio.timeout(self._probe_s):
                await self._generate_one()
        except TimeoutError:
            return f"no token came out within {self._probe_s:g} s"
        except EdgeserveError as error:
            return f"no token came out: {error}"
        return ""

    async def _generate_one(self) -> None:
        order = Order(
            prompt=self._state.tokenizer.prefix[:1] or (0,),
            max_new_tokens=1,
            sampling=Sampling(),
            stop_ids=frozenset(),
            received_s=self._state.clock.now_s(),
        )
        generation = await self._state.engine.submit(order)
        try:
            await anext(generation)
        except StopAsyncIteration:
            raise EdgeserveError("the request ended without one") from None
        finally:
            generation.cancel()


def _refuse_unready(status: Status) -> None:
    if not status.is_ready:
        raise _unavailable(status.reason or f"the pipeline is {status.phase}", status)


def _unavailable(reason: str, status: Status) -> StageUnavailable:
    where = {"stage": status.stage, "worker": status.worker}
    known = {name: value for name, value in where.items() if value is not None}
    return StageUnavailable(reason, phase=status.phase, **known)
