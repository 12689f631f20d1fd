"""Answers that end when the client goes away, and events one by one.

Of whoever has gone nothing more is computed: every answer races with the client's disconnect, which
is awaited and never polled. Starlette's own StreamingResponse leaves its generator hanging where it
was when a client goes, for the garbage collector to close some time; here the end is explicit.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")
Emit = Callable[[bytes], Awaitable[None]]
"""Sends some bytes of a stream."""
STATUS_GONE = 499  # nginx's word for a client that closed its connection; it reaches nobody
KEEP_ALIVE = b": keep-alive\n\n"
_compact = json.JSONEncoder(separators=(",", ":")).encode  # made once: `dumps` makes one each time


async def until_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What `work` returns; None, with `work` cancelled, if the client went away before.

    The request's body must have been read: what `receive` still has to say is the disconnect.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event.

    In ASCII: clients that split lines as Python's `splitlines` does would break at U+2028 and
    others.
    """
    return b"data:" + _compact(document).encode() + b"\n\n"


class EventStream(Response):
    """`write` is given what sends bytes, and returns when the stream is complete; then, or earlier,
    `close` is called.
    """

    media_type = "text/event-stream"

    def __init__(
        self, write: Callable[[Emit], Coroutine[Any, Any, None]], close: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._write = write
        self._close = close

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async def emit(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        async def write_all() -> None:
            await self._write(emit)
            await send({"type": "http.response.body", "body": b""})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await until_gone(receive, write_all())
        finally:
            self._close()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
