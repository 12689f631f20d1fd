"""What every request passes on its way in and out, whatever it asks: an id, a key, a bound, and
errors in one shape.

Plain ASGI, since wrappers of responses would stand between a stream and its client's disconnect.
Decisions about paths are made on `scope["path"]`, which is what the router goes by; a URL put
together from headers can be forged.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgeserve import log
from edgeserve.errors import (
    BadRequest,
    EdgeserveError,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    Unauthorized,
)
from edgeserve.gateway.openai_error import error_document

BODY_BYTES_MAX = 2 * 2**20  # TGI's; 2 MiB of prose is about 500,000 tokens
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger(__name__)


def error_response(error: EdgeserveError, path: str = "") -> Response:
    """In the shape that clients of `path` expect."""
    body = json.dumps(error_document(error, path), default=str).encode()
    headers = {"content-type": "application/json"}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(body, status_code=error.http_status, headers=headers)


async def routing_error(request: Request, error: Exception) -> Response:
    """What the router raises, in our shape."""
    assert isinstance(error, HTTPException)
    asked = request.scope["path"]
    path, method = json.dumps(asked[:200]), request.method[:20]
    if error.status_code == 404:
        missing = NotFound(f"there is no {path}; /openapi.json lists what there is")
        response = error_response(missing, asked)
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        wrong = MethodNotAllowed(f"{path} answers {allowed}, not {method}")
        response = error_response(wrong, asked)
    else:
        response = error_response(BadRequest(str(error.detail)[:200]), asked)
        response.status_code = error.status_code
    response.headers.update(error.headers or {})
    return response


class Border:
    """Gives every request an id, and turns every error into an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
            with log.request(request_id):
                await self._serve(request_id, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        else:  # nothing here speaks WebSocket, and what is not served needs no key check
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass  # it left before it had said what it wants: nobody is there to be answered
        except EdgeserveError as error:
            _note(error, request_id)
            if has_started:
                raise
            await error_response(error, scope["path"])(scope, receive, send_with_id)
        except Exception:  # the HTTP process's border: our faults must not look like the client's
            _log.exception("request %s failed", request_id)
            if has_started:
                raise  # the server cuts the connection, so that half an answer does not look whole
            fault = error_response(_fault(request_id), scope["path"])
            await fault(scope, receive, send_with_id)


class RequireKey:
    """Lets nobody in without the key but on `open_paths`: a new route is closed unless it is named
    there.
    """

    def __init__(self, app: ASGIApp, api_key: str, open_paths: frozenset[str]) -> None:
        self._app = app
        self._digest = _digest(api_key.encode()) if api_key else None
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._digest is not None and scope["type"] == "http":
            self._check(self._digest, scope)
        await self._app(scope, receive, send)

    def _check(self, digest: bytes, scope: Scope) -> None:
        if scope["path"] in self._open_paths:
            return
        given = Headers(scope=scope).get("authorization")
        if given is None:
            raise Unauthorized("no key was sent; send the header 'Authorization: Bearer KEY'")
        scheme, _, key = given.partition(" ")
        # Digests are of one length, so that the comparison takes the same time for every key.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(key.encode()), digest):
            raise Unauthorized("the key sent is not the key of this server; check 'Bearer KEY'")


class LimitBody:
    """Reads no more than `BODY_BYTES_MAX` of a body, whether its length was announced or not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and (len(announced) > 15 or int(announced) > BODY_BYTES_MAX):
            raise _too_large(f"announces {announced[:15]} bytes")
        await self._app(scope, _limited(receive), send)


def _limited(receive: Receive) -> Receive:
    read_bytes = 0

    async def limited() -> Message:
        nonlocal read_bytes
        message = await receive()
        read_bytes += len(message.get("body", b""))
        if read_bytes > BODY_BYTES_MAX:
            raise _too_large(f"has {read_bytes} bytes or more")
        return message

    return limited


def _too_large(what: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body {what}; at most {BODY_BYTES_MAX} are read; send a shorter prompt",
        body_bytes_max=BODY_BYTES_MAX,
    )


def _request_id(wanted: str) -> str:
    """The client's, if it is one that is safe to write into a log."""
    return wanted if _REQUEST_ID.fullmatch(wanted) else secrets.token_hex(8)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _note(error: EdgeserveError, request_id: str) -> None:
    if error.http_status >= 500:
        _log.warning("request %s: %s", request_id, error)


def _fault(request_id: str) -> EdgeserveError:
    return EdgeserveError(
        f"a fault of edgeserve; its log says more under request {request_id}", request_id=request_id
    )
