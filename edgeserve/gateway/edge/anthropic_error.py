"""Errors as Anthropic's clients expect them, on the routes that those clients ask.

The status is the error's own, on every route. Refuses to know how an answer is sent.
"""

from __future__ import annotations

from typing import Any

from edgeserve.errors import EdgeserveError, Overloaded, RateLimited

ANTHROPIC_PATHS = frozenset({"/v1/messages", "/v1/messages/count_tokens"})
_OF_STATUS = {
    401: "authentication_error",
    404: "not_found_error",
    413: "request_too_large",
}


def is_anthropics(path: str) -> bool:
    """Also what is not served: its clients show a sentence only if it comes in their shape."""
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def anthropic_error(error: EdgeserveError, request_id: str) -> dict[str, Any]:
    """`details` has our type, and the error's numbers."""
    told = {
        "type": _kind(error),
        "message": str(error),
        "details": {"error_code": error.error_type, **error.numbers},
    }
    return {"type": "error", "error": told, "request_id": request_id}


def _kind(error: EdgeserveError) -> str:
    """A key's own limit is told from a gateway that is full."""
    if isinstance(error, Overloaded):
        return "rate_limit_error" if isinstance(error, RateLimited) else "overloaded_error"
    if error.http_status >= 500:
        return "api_error"
    return _OF_STATUS.get(error.http_status, "invalid_request_error")
