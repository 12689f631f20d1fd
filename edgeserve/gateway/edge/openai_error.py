"""Errors as OpenAI's clients expect them, where those clients ask. All others have ours.

The status is the error's own, on every route. Refuses to know how an answer is sent.
"""

from __future__ import annotations

from typing import Any

from edgeserve.errors import EdgeserveError

OPENAI_PATHS = frozenset({
    "/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions",
    "/v1/responses", "/v1/responses/{response}",
})  # fmt: skip


def is_openais(path: str) -> bool:
    """Also what is not served: its clients show a sentence only if it comes in their shape."""
    return path.startswith("/v1/") and path != "/v1/cluster"


def openai_error(error: EdgeserveError) -> dict[str, Any]:
    """`param` and `code` come from the error's numbers, if it has them; the others follow."""
    named = {"param": None, "code": error.error_type, **error.numbers}
    return {"error": {"message": str(error), "type": _kind(error.http_status), **named}}


def _kind(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"
