"""GET /receipts/{request}: where the time of an answer went, once it is over; also for a client
that stopped reading before its end.

The receipts of the last answers are kept, each for whom it was made, under the id of its request:
`x-request-id`, the client's own or the one that its answer carries. A receipt is made when somebody
asks for it, since that takes longer than what most answers wait for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request

from edgeserve.errors import NotFound
from edgeserve.gateway.edge.openapi import JSON, LIST, STRING, documented, object_with
from edgeserve.gateway.edge.request_context import Generated, RequestContext, context_of
from edgeserve.gateway.text.json_text import shown

KEPT_MAX = 64
"""Requests. What is kept of each are the times of its tokens, some 100 bytes a token and stage."""

_Answer = tuple[int, str, Callable[[], dict[str, Any]]]
"""How many tokens it has, what ended it, and what makes its receipt."""

SOON_S = 1.0
"""Whoever stops an answer may ask sooner than the gateway notices that its reader has left."""


class Receipts:
    """Of the last requests that generated something."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], list[_Answer]] = OrderedDict()
        self._next = asyncio.Event()

    def keep(self, context: RequestContext) -> None:
        """To be told of every request that is over."""
        if not context.runs:
            return
        key = context.tenant_name, context.request_id
        self._kept[key] = [_kept(run) for run in context.runs]
        self._kept.move_to_end(key)  # an id may be used again
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        self._next.set()
        self._next = asyncio.Event()

    async def find(self, tenant_name: str, request_id: str) -> list[_Answer]:
        """Raises NotFound if there is none, nor soon, or not for this tenant."""
        key = tenant_name, request_id
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON_S):
                while key not in self._kept:
                    await self._next.wait()
        found = self._kept.get(key)
        if found is None:
            raise NotFound(
                f"there is no receipt of request {shown(request_id)}: the last {KEPT_MAX} answers "
                "that are over have one, for the key that asked for them"
            )
        return found


def receipt_routes(receipts: Receipts) -> APIRouter:
    router = APIRouter(tags=["cluster"])
    shape = object_with(request_id=STRING, answers=LIST)
    said = documented("/receipts/{request_id}", (NotFound,), {JSON: shape})

    @router.get("/receipts/{request_id}", responses=said)
    async def receipt(request_id: str, request: Request) -> dict[str, Any]:
        """Of each answer of a request that is over: its tokens, why it ended, and its receipt."""
        found = await receipts.find(context_of(request).tenant_name, request_id)
        return await asyncio.to_thread(_document, request_id, found)

    return router


def _kept(run: Generated) -> _Answer:
    return run.output_tokens, run.ended_by, run.receipt_later()


def _document(request_id: str, answers: Sequence[_Answer]) -> dict[str, Any]:
    told = [
        {"generated_tokens": tokens, "ended_by": ended_by, "timing": receipt()}
        for tokens, ended_by, receipt in answers
    ]
    return {"request_id": request_id, "answers": told}
