"""A gateway with no cluster behind it: real HTTP, and a script of what it says and when."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

Refuse = Callable[[int], tuple[int, dict[str, Any]] | None]
MakeReceipt = Callable[[int, int], dict[str, Any]]


def times(total_ms: float, **parts_ms: float) -> dict[str, float]:
    kinds = ("compute", "transfer", "waiting", "other")
    return {"total_ms": total_ms, **{f"{kind}_ms": parts_ms.get(kind, 0.0) for kind in kinds}}


def receipt(prompt_tokens: int, answer_tokens: int) -> dict[str, Any]:
    """10 ms a token: 9 of compute and 1 of transfer. The prompt takes as long as a token."""
    decoded = answer_tokens - 1
    return {
        "total_ms": 10.0 * answer_tokens,
        "queue_ms": 0.0,
        "prefill": {"tokens": prompt_tokens, **times(10.0, compute=9.0, transfer=1.0)},
        "decode": {
            "tokens": decoded,
            "laps": decoded,
            **times(10.0 * decoded, compute=9.0 * decoded, transfer=1.0 * decoded),
        },
        "stages": [
            {"stage": i, "worker": f"box{i}:50051", "layers": [i, i + 1], "compute_ms": ms}
            for i, ms in enumerate((4.0 * answer_tokens, 5.0 * answer_tokens))
        ],
        "per_token": [times(10.0, compute=9.0, transfer=1.0)] * answer_tokens,
        "verdict": "90 % compute, 10 % transfer; stage 1 is the slowest by 25 %",
    }


def cluster_document() -> dict[str, Any]:
    return {
        "model": "demo",
        "dtype": "fp32",
        "weights": "random",
        "simulation": None,
        "status": {"phase": "ready", "reason": "", "stage": None, "worker": None},
        "pages": {"total": 100, "in_use": 0, "page_tokens": 16},
        "requests": {"running": 0, "waiting": 0},
        "micro_batches": 1,
        "stages": [
            {
                "stage": i,
                "worker": f"box{i}:50051",
                "device": "cpu",
                "device_name": "2 cores",
                "layers": [i, i + 1],
                "embedding": i == 0,
                "head": i == 1,
                "slice_bytes": 1000,
                "pages": 100,
                "compute_ms": 4.0 + i,
                "transfer_ms": 0.5,
            }
            for i in range(2)
        ],
    }


@dataclass
class FakeGateway:
    """Tests change its attributes before they ask."""

    token_s: float = 0.001
    refuse: Refuse = lambda _running: None
    """Given how many requests run, this one included: status and body, or None to answer."""
    make_receipt: MakeReceipt = receipt
    meets: int = 1
    """Requests that have to run before any of them gets a token."""
    hangs_after: int | None = None
    """Tokens, after which only comments come."""
    breaks_with: dict[str, Any] | None = None
    """An event in place of the second token."""
    answer_tokens: int | None = None
    """In place of the number asked for."""
    cluster: dict[str, Any] = field(default_factory=cluster_document)
    cluster_status: int = 200
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    running: int = 0
    running_max: int = 0
    url: str = ""

    async def describe(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        return JSONResponse(self.cluster, status_code=self.cluster_status)

    async def generate(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.running += 1
        self.running_max = max(self.running_max, self.running)
        refusal = self.refuse(self.running)
        if refusal is not None:
            self.running -= 1
            return JSONResponse(refusal[1], status_code=refusal[0])
        return StreamingResponse(self._events(body["parameters"]), media_type="text/event-stream")

    async def _events(self, parameters: dict[str, Any]) -> AsyncIterator[str]:
        try:
            async for document in self._documents(parameters):
                yield document
        finally:
            self.running -= 1

    async def _documents(self, parameters: dict[str, Any]) -> AsyncIterator[str]:
        tokens = self.answer_tokens or parameters["max_new_tokens"]
        while self.running_max < self.meets:
            await asyncio.sleep(0.001)
        for i in range(tokens):
            await asyncio.sleep(self.token_s)
            if i == self.hangs_after:
                while True:
                    yield ": keep-alive\n\n"
                    await asyncio.sleep(0.01)
            if i == 1 and self.breaks_with is not None:
                yield _event(self.breaks_with)
                return
            document: dict[str, Any] = {"token": {"id": i, "text": "x"}}
            if i == tokens - 1:
                timing = self.make_receipt(parameters["truncate"], tokens)
                document |= {"generated_text": "x" * tokens, "details": {}, "timing": timing}
            yield _event(document)


def _event(document: dict[str, Any]) -> str:
    return f"data:{json.dumps(document)}\n\n"


class Serving:
    """Serves whichever fake a test put here, on a free port of this machine and a thread."""

    def __init__(self) -> None:
        self.fake = FakeGateway()
        self._listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(self._app(), log_config=None, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)
        self._listener.close()

    def _app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/v1/cluster", self._describe, methods=["GET"])
        app.add_api_route("/generate_stream", self._generate, methods=["POST"])
        return app

    async def _describe(self, request: Request) -> Response:
        return await self.fake.describe(request)

    async def _generate(self, request: Request) -> Response:
        return await self.fake.generate(request)
