"""A client's connection, bounded: what may be sent before a body, how long sending may take, and
how many connections there may be.

uvicorn's protocol keeps the headers of a request until they are complete, however many come and
however slowly, and has no bound on a connection that says nothing or takes nothing. So a few
clients could fill the memory, and a thousand sleeping ones take all file descriptors. What is
refused here never becomes a request; that is why these errors are written out by hand. Everything
that does is the middleware's.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from edgeserve.errors import (
    BadRequest,
    EdgeserveError,
    HeadersTooLarge,
    Overloaded,
    PayloadTooLarge,
    TooSlow,
)

HEAD_BYTES_MAX = 32 * 2**10  # nginx's: four buffers of 8 KiB
HEADERS_MAX = 100  # Apache's; browsers and proxies together send some 30
MESSAGE_BYTES_MAX = 16 * 2**20  # a body of 2 MiB in chunks of one byte has 12 MiB
HEAD_S = 10.0  # a head fits into a few packets
BODY_S = 60.0  # 2 MiB need 17 s at 1 Mbit/s
GRACE_S = 5.0  # for the middleware, which tells of a slow body in the shape of its route
UNREAD_S = 60.0  # a client that waits for its user, or a network that is away for a while
SEND_S = 5  # for what is computed to reach its client, once the requests have ended


@dataclass(frozen=True, kw_only=True)
class Bounds:
    connections: int
    head_s: float = HEAD_S
    body_s: float = BODY_S + GRACE_S
    unread_s: float = UNREAD_S


def server_config(app: ASGIApp, bounds: Bounds) -> uvicorn.Config:
    """Of a server that logs nothing by itself and speaks HTTP/1.1 alone."""
    protocol: Any = partial(BoundedConnection, bounds)
    return uvicorn.Config(
        app, http=protocol, ws="none", loop="none", lifespan="off", log_config=None,
        access_log=False, timeout_graceful_shutdown=SEND_S,
    )  # fmt: skip


class BoundedConnection(HttpToolsProtocol):
    """One request after another, each of which is a head and then a body."""

    def __init__(self, bounds: Bounds, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._bounds = bounds
        self._in_head = True
        self._message_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _give_up_unread(transport, self._bounds.unread_s)
        most = self._bounds.connections
        if len(self.connections) > most:
            self._refuse(
                Overloaded(
                    f"{most} connections are open, and no more are taken; try again in 1 s",
                    retry_after_s=1,
                    connections_max=most,
                )
            )
        else:
            self._expect_within(self._bounds.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells only the newest request, which may not have begun: it waits for an earlier
        one's answer, for which more would be computed.
        """
        self._expect_nothing()
        super().connection_lost(exc)
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        """What a message began amid is not counted: a read has 256 KiB at most."""
        was_in_head = self._in_head
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except HttpParserError:
            what = "this is no request of HTTP/1.1; nothing else is spoken here, nor TLS"
            self._refuse(BadRequest(what))
        if self.transport.is_closing():
            return
        if self._in_head == was_in_head:
            self._message_bytes += len(data)
            self._check_size()
        if self._timer is None and self.cycle.response_complete:
            # Blank lines, say: no message began, and uvicorn has taken its own timer away.
            self._expect_within(self._bounds.head_s)

    def _feed(self, data: bytes) -> None:
        """A client may offer to go on in another protocol, as Java's does with its first request.
        The parser then takes what follows for that protocol's, the body, too. So the offer is left
        out, and the rest read again.
        """
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as offered:
                rest = rest[offered.args[0] :]
                head, self.parser = self._head_without_offer(), HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
                self.parser.feed_data(head)
            else:
                return

    def _head_without_offer(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            raise HttpParserError
        lines = [b"%b: %b\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version.encode(), b"".join(lines))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._message_bytes = True, 0
        self._expect_within(self._bounds.head_s)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        self._in_head = False
        self._expect_within(self._bounds.body_s)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self._expect_nothing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _check_size(self) -> None:
        if self._in_head and self._message_bytes > HEAD_BYTES_MAX:
            self._refuse(
                HeadersTooLarge(
                    f"URL and headers have {self._message_bytes} bytes or more; at most "
                    f"{HEAD_BYTES_MAX} are taken; send fewer",
                    head_bytes_max=HEAD_BYTES_MAX,
                )
            )
        elif self._message_bytes > MESSAGE_BYTES_MAX:
            self._refuse(PayloadTooLarge("the body and what frames it have no end"))

    def _expect_within(self, seconds: float) -> None:
        """The next part of the message, or else the connection is closed."""
        self._expect_nothing()
        self._timer = self.loop.call_later(seconds, self._late, seconds)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self, seconds: float) -> None:
        """Nothing is said to a client that said nothing: it would take that for the answer to what
        it may be sending now.
        """
        if self._in_head and not self._message_bytes:
            self.transport.close()
            return
        what = "headers were" if self._in_head else "body was"
        self._refuse(TooSlow(f"the {what} not complete within {seconds:g} s; send faster"))

    def _refuse(self, error: EdgeserveError) -> None:
        """Closes, and says why unless what is written would seem part of an answer."""
        if self._may_answer():
            body = json.dumps(error.to_json()).encode()
            wait = (
                f"retry-after: {error.retry_after_s}\r\n" if isinstance(error, Overloaded) else ""
            )
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
                f"{wait}connection: close\r\n\r\n"
            )
            self.transport.write(STATUS_LINE[error.http_status] + head.encode() + body)
        self.transport.close()

    def _may_answer(self) -> bool:
        cycle: Any = self.cycle  # None before the first head is complete
        if cycle is None:
            return True
        if self.pipeline:  # the newest request waits behind one that is still to be answered
            return False
        return bool(cycle.response_complete if self._in_head else not cycle.response_started)


def _give_up_unread(transport: asyncio.Transport, seconds: float) -> None:
    """Who takes nothing for so long is cut off. Else what was written for it would be kept, and its
    connection, for as long as it likes. Linux sees to that; other systems do not.
    """
    if sys.platform == "linux":
        own: socket.socket = transport.get_extra_info("socket")
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))
