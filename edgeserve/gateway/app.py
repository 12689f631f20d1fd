"""Puts the HTTP side together: routes inside, the border around them.

The interactive pages of FastAPI are off, since they load scripts from elsewhere; /openapi.json is
there.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

import edgeserve
from edgeserve.gateway.border import Border, LimitBody, RequireKey, routing_error
from edgeserve.gateway.documented import ANY_OBJECT, JSON, documented
from edgeserve.gateway.health import OPEN_PATHS, health_routes
from edgeserve.gateway.metrics import metrics_routes
from edgeserve.gateway.native import native_routes
from edgeserve.gateway.openai import openai_routes
from edgeserve.gateway.parts import GatewayParts, ModelFacts
from edgeserve.gateway.trace import trace_routes

__all__ = ["GatewayParts", "ModelFacts", "create_app"]


def create_app(parts: GatewayParts) -> FastAPI:
    app = FastAPI(
        title="edgeserve",
        version=edgeserve.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=[
            Middleware(Border),
            Middleware(RequireKey, api_key=parts.api_key, open_paths=OPEN_PATHS),
            Middleware(LimitBody),
        ],
        exception_handlers={HTTPException: routing_error},
    )
    app.include_router(native_routes(parts))
    app.include_router(openai_routes(parts))
    app.include_router(health_routes(parts))
    app.include_router(metrics_routes(parts))
    app.include_router(trace_routes(parts))

    said = documented("/v1/cluster", (), {JSON: ANY_OBJECT})

    @app.get("/v1/cluster", tags=["cluster"], responses=said)
    async def cluster() -> dict[str, Any]:
        """Plan, workers, stages, pages in use, link and stage times."""
        return parts.engine.cluster()

    return app
