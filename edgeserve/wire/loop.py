"""The event loop that both ends run on, and what ends it.

uvloop where it is installed, because a hop is mostly wake-ups.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

try:
    import uvloop
except ImportError:  # pragma: no cover  # an optional dependency
    new_loop = asyncio.new_event_loop
else:
    new_loop = uvloop.new_event_loop

Result = TypeVar("Result")
SWITCH_INTERVAL_S = 5e-4
"""A tenth of Python's own. Both ends have a second thread, and a loop with a frame to pass on must
not wait 5 ms for it to yield."""


def run_on_loop(main: Coroutine[Any, Any, Result]) -> Result:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def keep_what_is_here() -> None:
    """From now on Python's collector no longer looks at what lives now, which is what was imported.

    It would, now and then, and hold up a frame or everybody's tokens for 0.1 s (docs/LOG.md).
    """
    gc.freeze()


def told_to_end(watch_stdin: bool) -> asyncio.Future[None]:
    """Done at SIGTERM, SIGINT or, if it is watched, the end of standard input."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4096):  # readable, and nothing there: the end
            loop.remove_reader(sys.stdin.fileno())
            tell()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell)
    if watch_stdin:
        loop.add_reader(sys.stdin.fileno(), read)
    return told
