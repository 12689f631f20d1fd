"""What every request passes on its way in and out, whatever it asks: an id, a key, bounds, and
errors in one shape.

Plain ASGI, since wrappers of responses would stand between a stream and its client's disconnect.
Decisions about paths are made on `scope["path"]`, which is what the router goes by; a URL put
together from headers can be forged.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Sequence
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeserve import log
from edgeserve.clock import Clock, unix_ns
from edgeserve.errors import (
    EdgeserveError,
    HeadersTooLarge,
    Overloaded,
    PayloadTooLarge,
    TooSlow,
    Unauthorized,
    UnsupportedEncoding,
)
from edgeserve.gateway.edge.anthropic_error import is_anthropics
from edgeserve.gateway.edge.connection import BODY_S, HEAD_BYTES_MAX, HEADERS_MAX
from edgeserve.gateway.edge.error_shape import error_document
from edgeserve.gateway.edge.event_stream import STATUS_GONE
from edgeserve.gateway.edge.keys import KeyRing, Tenant
from edgeserve.gateway.edge.request_context import RequestContext, Tell, context_of
from edgeserve.gateway.edge.routing import routed, routing_refusal, with_head, without_body

BODY_BYTES_MAX = 2 * 2**20  # TGI's; 2 MiB of prose is about 500,000 tokens
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)


def error_response(error: EdgeserveError, path: str = "", request_id: str = "") -> Response:
    """In the shape that clients of `path` expect."""
    body = json.dumps(error_document(error, path, request_id), default=str).encode()
    headers = {"content-type": "application/json"}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedEncoding):
        headers["Accept-Encoding"] = "identity"
    return Response(body, status_code=error.http_status, headers=headers)


async def routing_error(request: Request, error: Exception) -> Response:
    """What the router raises, in our shape."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    context = context_of(request)
    refusal = routing_refusal(path, context.method, error)
    response = error_response(refusal, path, context.request_id)
    response.status_code = error.status_code
    response.headers.update(error.headers or {})
    if allowed := response.headers.get("Allow"):
        response.headers["Allow"] = with_head(allowed)
    return response


class TrackRequest:
    """Gives every request an id, turns every error into an answer, and has it told of when it
    is over.
    """

    def __init__(self, app: ASGIApp, clock: Clock, tell: Sequence[Tell] = ()) -> None:
        self._app = app
        self._clock = clock
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            context = self._begin(scope)
            with log.request(context.request_id):
                try:
                    await self._serve(context, receive, send)
                finally:
                    self._end(context)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # nothing here speaks WebSocket, and what is not served needs no key check
            await send({"type": "websocket.close", "code": 1008})

    def _begin(self, scope: Scope) -> RequestContext:
        context = RequestContext(
            request_id=_request_id(Headers(scope=scope).get("x-request-id", "")),
            method=scope.get("method", ""),
            scope=routed(scope),
            started_s=self._clock.now_s(),
            started_unix_ns=unix_ns(),
        )
        context.scope.setdefault("state", {})["context"] = context
        return context

    def _end(self, context: RequestContext) -> None:
        context.close(self._clock.now_s())
        with log.tenant(context.tenant_name) if context.tenant_name else nullcontext():
            for tell in self._tell:
                tell(context)

    async def _serve(self, context: RequestContext, receive: Receive, send: Send) -> None:
        scope = context.scope

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                context.status = message["status"]
                MutableHeaders(scope=message).update(_headers(context))
            await send(without_body(message) if context.method == "HEAD" else message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # before its body was complete: there is nobody to answer
            context.status = STATUS_GONE
        except EdgeserveError as error:
            context.error_type = error.error_type
            _note(error, context.request_id)
            if context.status:
                raise
            refusal = error_response(error, scope["path"], context.request_id)
            await refusal(scope, receive, send_with_id)
        except Exception:  # the HTTP process's border: our faults must not look like the client's
            context.error_type = EdgeserveError.error_type
            _log.exception("request %s failed", context.request_id)
            if context.status:
                raise  # the server cuts the connection, so that half an answer does not look whole
            fault = error_response(_fault(context.request_id), scope["path"], context.request_id)
            await fault(scope, receive, send_with_id)


class RequireKey:
    """Lets nobody in without a key but to look at one of `open_paths`: a new route is closed unless
    it is named there.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tenant = self._tenant(scope)
        context: RequestContext = scope["state"]["context"]
        context.tenant = tenant
        with log.tenant(tenant.name) if tenant.name else nullcontext():
            await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> Tenant:
        is_open = scope["path"] in self._open_paths and scope["method"] == "GET"
        if not self._keys.tenants or is_open:
            return self._keys.anybody
        secrets_sent = _keys_sent(Headers(scope=scope))
        if not secrets_sent:
            raise Unauthorized(
                "no key was sent; send the header 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        tenants = [self._keys.tenant_of(secret) for secret in secrets_sent]
        for tenant in tenants:
            if tenant is not None:
                return tenant
        raise Unauthorized(
            "the key sent is no key of this server; check 'Bearer KEY' or 'x-api-key: KEY'"
        )


def _keys_sent(headers: Headers) -> list[str]:
    """In both headers that clients use, OpenAI's first. What cannot be a key stands for one that
    is wrong.
    """
    sent: list[str] = []
    if "authorization" in headers:
        scheme, _, secret = headers["authorization"].partition(" ")
        sent.append(secret if scheme.lower() == "bearer" else "")
    if "x-api-key" in headers:
        sent.append(headers["x-api-key"])
    return sent


class LimitHead:
    """Takes no more than `HEAD_BYTES_MAX` and `HEADERS_MAX` of what goes before a body. What is far
    beyond does not come here: `connection.py` stops reading.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            _check_head(scope)
        await self._app(scope, receive, send)


def _check_head(scope: Scope) -> None:
    headers = scope["headers"]
    head_bytes = sum(len(name) + len(value) for name, value in headers)
    head_bytes += len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
    if head_bytes > HEAD_BYTES_MAX or len(headers) > HEADERS_MAX:
        raise HeadersTooLarge(
            f"URL and {len(headers)} headers have {head_bytes} bytes; at most {HEAD_BYTES_MAX} "
            f"bytes and {HEADERS_MAX} headers are taken; send fewer",
            head_bytes_max=HEAD_BYTES_MAX,
            headers_max=HEADERS_MAX,
        )


class LimitBody:
    """Reads no more than `BODY_BYTES_MAX` of a body, whether its length was announced or not, and
    waits no longer than `body_s` for all of it.
    """

    def __init__(self, app: ASGIApp, body_s: float = BODY_S) -> None:
        self._app = app
        self._body_s = body_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        _refuse_encoded(headers.get("content-encoding", ""))
        announced = headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 15 or int(announced) > BODY_BYTES_MAX):
            raise _too_large(f"announces {announced[:15]} bytes")
        await self._app(scope, _limited(receive, self._body_s), send)


def _refuse_encoded(encoding: str) -> None:
    """A few compressed bytes may unpack to any number, so bodies come as they are."""
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedEncoding(
            f"the body is encoded as {encoding[:40]!r}, and only plain bodies are read; send it "
            "without Content-Encoding: at most "
            f"{BODY_BYTES_MAX} bytes are read, so there is little to compress",
        )


def _limited(receive: Receive, body_s: float) -> Receive:
    read_bytes, is_complete = 0, False
    until = asyncio.get_running_loop().time() + body_s

    async def limited() -> Message:
        nonlocal read_bytes, is_complete
        try:
            async with asyncio.timeout_at(None if is_complete else until):
                message = await receive()
        except TimeoutError:
            raise TooSlow(
                f"the body was not complete {body_s:g} s after its headers; send it faster",
                body_s_max=body_s,
                body_bytes=read_bytes,
            ) from None
        read_bytes += len(message.get("body", b""))
        is_complete = not message.get("more_body", False)
        if read_bytes > BODY_BYTES_MAX:
            raise _too_large(f"has {read_bytes} bytes or more")
        return message

    return limited


def _too_large(what: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body {what}; at most {BODY_BYTES_MAX} are read; send a shorter prompt",
        body_bytes_max=BODY_BYTES_MAX,
    )


def _headers(context: RequestContext) -> dict[str, str]:
    limits = context.tenant.quota.headers() if context.tenant else {}
    theirs = {"request-id": context.request_id} if is_anthropics(context.path) else {}
    return {"x-request-id": context.request_id, **theirs, **limits}


def _request_id(wanted: str) -> str:
    """The client's, if it is one that is safe to write into a log."""
    return wanted if _REQUEST_ID.fullmatch(wanted) else secrets.token_hex(8)


def _note(error: EdgeserveError, request_id: str) -> None:
    if error.http_status >= 500:
        _log.warning("request %s: %s", request_id, error)


def _fault(request_id: str) -> EdgeserveError:
    return EdgeserveError(
        f"a fault of edgeserve; its log says more under request {request_id}", request_id=request_id
    )
