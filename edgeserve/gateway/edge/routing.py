"""From what a client asks for to the routes that there are, and what is said where there is none.

HEAD is GET without a body, on every route. Slashes that a proxy or a base URL doubles count once,
before anybody decides by the path. Refuses to know what a route does.
"""

from __future__ import annotations

import json
import re

from starlette.exceptions import HTTPException
from starlette.types import Message, Scope

from edgeserve.errors import BadRequest, EdgeserveError, MethodNotAllowed, NotFound

_ELSEWHERE = {
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rankings",
    "/v1/score": "scores",
    "/v1/moderations": "moderations",
    "/v1/images": "images",
    "/v1/audio": "speech or transcripts",
    "/v1/videos": "videos",
    "/v1/realtime": "realtime sessions",
    "/v1/files": "stored files",
    "/v1/batches": "stored batches",
    "/v1/messages/batches": "stored batches",
    "/v1/fine_tuning": "fine-tuning jobs",
    "/v1/assistants": "assistants",
    "/v1/threads": "stored threads",
    "/v1/vector_stores": "vector stores",
}
"""Routes of OpenAI's and Anthropic's that clients look for here, and what they would give."""


def routed(scope: Scope) -> Scope:
    """A copy with the path and the method that routes go by."""
    path = re.sub("//+", "/", scope.get("path", ""))
    method = scope.get("method", "")
    return {**scope, "path": path, "method": "GET" if method == "HEAD" else method}


def without_body(message: Message) -> Message:
    """As a part of an answer to HEAD."""
    return {**message, "body": b""} if message["type"] == "http.response.body" else message


def routing_refusal(path: str, method: str, error: HTTPException) -> EdgeserveError:
    """What the router raises, as an error of ours."""
    shown = json.dumps(path[:200])
    if error.status_code == 404:
        return NotFound(_not_here(path, shown))
    if error.status_code == 405:
        allowed = with_head((error.headers or {}).get("Allow", "another method"))
        return MethodNotAllowed(f"{shown} answers {allowed}, not {method[:20]}")
    return BadRequest(str(error.detail)[:200])


def with_head(allowed: str) -> str:
    """The value of an `Allow` header, with HEAD wherever there is GET."""
    methods = [each.strip() for each in allowed.split(",")]
    if "GET" in methods and "HEAD" not in methods:
        methods.insert(methods.index("GET") + 1, "HEAD")
    return ", ".join(methods)


def _not_here(path: str, shown: str) -> str:
    for route, gives in _ELSEWHERE.items():
        if path == route or path.startswith(f"{route}/"):
            return (
                f"there is no {shown}: edgeserve generates text with one model and has no {gives}; "
                "send this request to a server that has, beside this one"
            )
    return f"there is no {shown}; /openapi.json lists what there is"
