"""/openapi.json names what comes from below the routes, too: no route is asked, and any may seem to
answer so.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from fastapi import FastAPI

from edgeserve.errors import EdgeserveError, HeadersTooLarge, Overloaded, TooSlow
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.anthropic_error import ANTHROPIC_PATHS
from edgeserve.gateway.edge.error_shape import error_document
from edgeserve.gateway.edge.openai_error import OPENAI_PATHS
from edgeserve.gateway.edge.openapi import OF_ANY_CONNECTION

OF_ALL = {"400", "401", "408", "413", "429", "431", "500"}
SAID = [
    Overloaded("900 connections are open", retry_after_s=1),
    HeadersTooLarge("too long"),
    TooSlow("too slow"),
]


@pytest.fixture
def operations(state: AppState) -> dict[str, Any]:
    """By path: each has one."""
    app: FastAPI = create_app(state)
    return {path: only for path, item in app.openapi()["paths"].items() for only in item.values()}


def test_what_any_connection_may_be_told_is_said_of_every_route(
    operations: dict[str, Any],
) -> None:
    assert "/" in operations
    assert {str(kind.http_status) for kind in OF_ANY_CONNECTION} < OF_ALL
    for path, operation in operations.items():
        assert set(operation["responses"]) >= OF_ALL, path
        assert "Retry-After" in operation["responses"]["429"]["headers"], path


@pytest.mark.parametrize("error", SAID, ids=lambda error: error.error_type)
def test_errors_from_below_a_route_and_of_it_have_a_shape_that_is_said(
    error: EdgeserveError, operations: dict[str, Any]
) -> None:
    assert set(operations) >= OPENAI_PATHS | ANTHROPIC_PATHS
    for path, operation in operations.items():
        answer = operation["responses"][str(error.http_status)]
        schema = answer["content"]["application/json"]["schema"]
        for document in (error.to_json(), error_document(error, path)):
            jsonschema.validate(document, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"detail": "of FastAPI's own"}, schema)
