"""A stage's files on their way from the Hugging Face hub to this box, beside the event loop.

Knows when to speak of it: as long as bytes come. Silence is left to the gateway, which bounds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future

from edgeserve.errors import EdgeserveError
from edgeserve.frames.stage import Stage
from edgeserve.hugging_face.find import fetch_stage
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel
from edgeserve.wire.messages import LoadProgress

LOOK_PERIOD_S = 0.5


async def fetching(model: HubModel, stage: Stage | None) -> AsyncGenerator[LoadProgress]:
    """Ends when the stage's files are here; without a stage, when the configuration is. Raises
    what `fetch_stage` does. Who stops listening stops it.
    """
    progress = FetchProgress()
    outcome = asyncio.wrap_future(_on_a_thread(model, stage, progress))
    try:
        while not (await asyncio.wait({outcome}, timeout=LOOK_PERIOD_S))[0]:
            if progress.moved():
                yield LoadProgress(bytes_done=progress.bytes_done, bytes_total=progress.bytes_total)
        outcome.result()
    finally:
        progress.cancelled = True
        outcome.cancel()  # nobody looks at it any more


def _on_a_thread(model: HubModel, stage: Stage | None, progress: FetchProgress) -> Future[None]:
    """Of its own and a daemon: a worker that ends does not wait for a download."""
    outcome: Future[None] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it is the thread's to end

    def run() -> None:
        try:
            fetch_stage(model, stage, progress)
        except EdgeserveError as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)
        finally:
            if not outcome.done():  # a mistake of ours, which the log shows when this thread ends
                outcome.set_exception(EdgeserveError(f"fetching {model} failed; see its log"))

    threading.Thread(target=run, name="fetching", daemon=True).start()
    return outcome
