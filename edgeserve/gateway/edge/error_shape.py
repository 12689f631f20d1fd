"""Which shape an error has: that of the clients who ask the route, or ours."""

from __future__ import annotations

from typing import Any

from edgeserve.errors import EdgeserveError
from edgeserve.gateway.edge.anthropic_error import anthropic_error, is_anthropics
from edgeserve.gateway.edge.openai_error import is_openais, openai_error


def error_document(error: EdgeserveError, path: str, request_id: str = "") -> dict[str, Any]:
    """The body of an answer to a request for `path`."""
    if is_anthropics(path):
        return anthropic_error(error, request_id)
    return openai_error(error) if is_openais(path) else error.to_json()
