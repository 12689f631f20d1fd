"""Puts the HTTP side together: routes inside, the middleware around them.

The interactive pages of FastAPI are off, since they load scripts from elsewhere; /openapi.json is
there.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

import edgeserve
from edgeserve.gateway.api.messages.routes import messages_routes
from edgeserve.gateway.api.openai.routes import openai_routes
from edgeserve.gateway.api.responses.routes import responses_routes
from edgeserve.gateway.api.tgi.routes import native_routes
from edgeserve.gateway.api.tokenize import tokenizer_routes
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.dashboard import routes as dashboard
from edgeserve.gateway.edge.middleware import (
    LimitBody,
    LimitHead,
    RequireKey,
    TrackRequest,
    routing_error,
)
from edgeserve.gateway.edge.openapi import ANY_OBJECT, JSON, documented
from edgeserve.gateway.edge.request_context import Tell, log_request
from edgeserve.gateway.observe.health import OPEN_PATHS, health_routes
from edgeserve.gateway.observe.metrics import metrics_routes
from edgeserve.gateway.observe.receipts import Receipts, receipt_routes
from edgeserve.gateway.observe.trace import trace_routes

EXPOSED = (
    "x-request-id",
    "request-id",
    "retry-after",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
__all__ = ["AppState", "ModelFacts", "create_app"]


def create_app(state: AppState, tell: Sequence[Tell] = (log_request,)) -> FastAPI:
    """`tell` is what is done with each request when it is over."""
    receipts = Receipts()
    app = FastAPI(
        title="edgeserve",
        version=edgeserve.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=[
            *_cors(state.cors_origins),
            Middleware(TrackRequest, clock=state.clock, tell=(*tell, receipts.keep)),
            Middleware(LimitHead),
            Middleware(RequireKey, keys=state.keys, open_paths=OPEN_PATHS | dashboard.OPEN_PATHS),
            Middleware(LimitBody),
        ],
        exception_handlers={HTTPException: routing_error},
    )
    app.include_router(native_routes(state))
    app.include_router(openai_routes(state))
    app.include_router(responses_routes(state))
    app.include_router(messages_routes(state))
    app.include_router(tokenizer_routes(state))
    app.include_router(health_routes(state))
    app.include_router(metrics_routes(state))
    app.include_router(trace_routes(state))
    app.include_router(receipt_routes(receipts))
    app.include_router(dashboard.dashboard_routes())

    said = documented("/v1/cluster", (), {JSON: ANY_OBJECT})

    @app.get("/v1/cluster", tags=["cluster"], responses=said)
    async def cluster() -> JSONResponse:
        """Plan, workers, stages, pages in use, link and stage times."""
        return JSONResponse(await state.engine.cluster())  # it is JSON already: nothing to look for

    return app


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Around the other middleware, so that a page can read errors, too. A browser's question
    whether it may ask is answered here, before any key is looked at, since it comes without; what
    it then asks needs the key like everything.
    """
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
            expose_headers=EXPOSED,
        )
    ]
