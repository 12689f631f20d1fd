"""How the log is written: lines for people, or one JSON document a line for programs.

Whoever logs does so through the standard library and knows nothing of this; structlog puts its
records into form. A line names the request on whose behalf something was logged: the HTTP border
says once which one it is, and whatever runs for it, in whatever module, logs under its id. Refuses
to know what is logged, and by whom.
"""

from __future__ import annotations

import logging
import sys
from contextlib import AbstractContextManager

from structlog.contextvars import bound_contextvars, merge_contextvars
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, format_exc_info
from structlog.stdlib import ExtraAdder, ProcessorFormatter, add_log_level, add_logger_name
from structlog.typing import EventDict

_FIRST = ("time", "level", "logger", "event")
_GATHER = (
    TimeStamper(fmt="%Y-%m-%dT%H:%M:%S%z", utc=False, key="time"),
    add_log_level,
    add_logger_name,
    ExtraAdder(),
    merge_contextvars,
)


def request(request_id: str) -> AbstractContextManager[None]:
    """What is logged within is about this request."""
    return bound_contextvars(request_id=request_id)


def tenant(name: str) -> AbstractContextManager[None]:
    """What is logged within is about a request of this tenant."""
    return bound_contextvars(tenant=name)


def write_log(log_format: str) -> None:
    """From now on to standard error, as 'console' or 'json'."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[log_format]())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class JsonLines(ProcessorFormatter):
    """`time`, `level`, `logger` and `event`; `request_id`, `tenant`, `error` and whatever was given
    as `extra` where there is one.
    """

    def __init__(self) -> None:
        super().__init__(
            foreign_pre_chain=_GATHER,
            processors=[
                ProcessorFormatter.remove_processors_meta,
                format_exc_info,
                _document,
                JSONRenderer(default=str),
            ],
        )


class ConsoleLines(ProcessorFormatter):
    """The same for people. Strings that a client may have had a hand in stand in quotes, so that
    none of them can look like a line of its own.
    """

    def __init__(self) -> None:
        renderer = ConsoleRenderer(
            colors=sys.stderr.isatty(),
            timestamp_key="time",
            sort_keys=False,
            repr_native_str=True,
            exception_formatter=plain_traceback,
        )
        super().__init__(
            foreign_pre_chain=_GATHER,
            processors=[ProcessorFormatter.remove_processors_meta, renderer],
        )


def _document(_logger: object, _method: str, facts: EventDict) -> EventDict:
    """In the order in which they are read."""
    error = {"error": facts.pop("exception")} if "exception" in facts else {}
    return {**{name: facts.pop(name) for name in _FIRST}, **facts, **error}


FORMATS = {"console": ConsoleLines, "json": JsonLines}
