"""Puts the HTTP side together: routes inside, the border around them.

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
from edgeserve.gateway.api.responses.routes import responses_routes
from edgeserve.gateway.border import Border, LimitBody, LimitHead, RequireKey, routing_error
from edgeserve.gateway.dashboard import routes as dashboard
from edgeserve.gateway.documented import ANY_OBJECT, JSON, documented
from edgeserve.gateway.exchange import Tell, log_exchange
from edgeserve.gateway.health import OPEN_PATHS, health_routes
from edgeserve.gateway.metrics import metrics_routes
from edgeserve.gateway.native import native_routes
from edgeserve.gateway.openai import openai_routes
from edgeserve.gateway.parts import GatewayParts, ModelFacts
from edgeserve.gateway.receipts import Receipts, receipt_routes
from edgeserve.gateway.tokenize import tokenizer_routes
from edgeserve.gateway.trace import trace_routes

EXPOSED = (
    "x-request-id",
    "request-id",
    "retry-after",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
)
__all__ = ["GatewayParts", "ModelFacts", "create_app"]


def create_app(parts: GatewayParts, tell: Sequence[Tell] = (log_exchange,)) -> FastAPI:
    """`tell` is what is done with each exchange when it is over."""
    receipts = Receipts()
    app = FastAPI(
        title="edgeserve",
        version=edgeserve.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        middleware=[
            *_cors(parts.cors_origins),
            Middleware(Border, clock=parts.clock, tell=(*tell, receipts.keep)),
            Middleware(LimitHead),
            Middleware(RequireKey, keys=parts.keys, open_paths=OPEN_PATHS | dashboard.OPEN_PATHS),
            Middleware(LimitBody),
        ],
        exception_handlers={HTTPException: routing_error},
    )
    app.include_router(native_routes(parts))
    app.include_router(openai_routes(parts))
    app.include_router(responses_routes(parts))
    app.include_router(messages_routes(parts))
    app.include_router(tokenizer_routes(parts))
    app.include_router(health_routes(parts))
    app.include_router(metrics_routes(parts))
    app.include_router(trace_routes(parts))
    app.include_router(receipt_routes(receipts))
    app.include_router(dashboard.dashboard_routes())

    said = documented("/v1/cluster", (), {JSON: ANY_OBJECT})

    @app.get("/v1/cluster", tags=["cluster"], responses=said)
    async def cluster() -> JSONResponse:
        """Plan, workers, stages, pages in use, link and stage times."""
        return JSONResponse(await parts.engine.cluster())  # it is JSON already: nothing to look for

    return app


def _cors(origins: Sequence[str]) -> list[Middleware]:
    """Around the border, so that a page can read errors, too. A browser's question whether it may
    ask is answered here, before any key is looked at, since it comes without; what it then asks
    needs the key like everything.
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
