"""How the log is written: lines for people, or one JSON document a line for programs.

A document names the request on whose behalf something was logged: the HTTP border says once which
one it is, and whatever runs for it, in whatever module, logs under its id. Refuses to know what is
logged, and by whom.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_request_id: ContextVar[str] = ContextVar("request_id", default="")


@contextmanager
def request(request_id: str) -> Iterator[None]:
    """What is logged within is about this request."""
    before = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(before)


def write_log(log_format: str) -> None:
    """From now on to standard error, as 'console' or 'json'."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[log_format])
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonLines(logging.Formatter):
    """`time`, `level`, `logger` and `event`; `request_id` and `error` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if _request_id.get():
            document["request_id"] = _request_id.get()
        if record.exc_info:
            document["error"] = self.formatException(record.exc_info)
        return json.dumps(document)


FORMATS = {
    "console": logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"),
    "json": JsonLines(),
}
