"""POST /generate and /generate_stream: TGI's request and response, with a receipt.

Admission is decided before an answer begins, so that 'overloaded' is a status and not an event of a
stream that began with 200. A client that goes away frees its pages at once.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgeserve.errors import EdgeserveError
from edgeserve.gateway.answer import Answer, Piece
from edgeserve.gateway.intake import Ask, Intake
from edgeserve.gateway.parts import GatewayParts
from edgeserve.gateway.request import GenerateRequest, parse_request
from edgeserve.gateway.stream import KEEP_ALIVE, Emit, EventStream, event, until_gone
from edgeserve.pipeline.generation import Generation, Token

STATUS_GONE = 499  # nginx's word for a client that closed its connection; it reaches nobody


def native_routes(parts: GatewayParts) -> APIRouter:
    native = Native(parts)
    router = APIRouter(tags=["native"])
    content = {"application/json": {"schema": _schema()}}
    body = {"requestBody": {"required": True, "content": content}}
    for path, serve in (("/generate", native.generate), ("/generate_stream", native.stream)):
        router.add_api_route(path, serve, methods=["POST"], openapi_extra=body)
    return router


class Native:
    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._intake = Intake(parts)

    async def generate(self, request: Request) -> Response:
        """Answers when the text is complete."""
        with closing(await self._admit(request, streams=False)) as run:
            await until_gone(request.receive, run.finish())
            if run.answer.finish_reason is None:
                return Response(status_code=STATUS_GONE)
            return JSONResponse(run.response())

    async def stream(self, request: Request) -> Response:
        """Answers with an event for each token; the last one also carries text, details and
        timing.
        """
        run = await self._admit(request, streams=True)
        return EventStream(run.write_events, run.close)

    async def _admit(self, request: Request, *, streams: bool) -> Run:
        """Raises whatever keeps the request from being served."""
        received_s = self._parts.clock.now_s()
        checked = parse_request(await request.body(), streams=streams)
        tenant = request.headers.get("authorization", "")  # whoever has the key
        ask = await self._intake.ask(checked, received_s, tenant)
        return Run(self._parts, ask, await self._parts.engine.submit(ask.order))


class Run:
    """An accepted request on its way to its answer."""

    def __init__(self, parts: GatewayParts, ask: Ask, generation: Generation) -> None:
        self._parts = parts
        self._ask = ask
        self._generation = generation
        self.answer = Answer(ask.order, parts.tokenizer, eos_ids=parts.eos_ids, stop=ask.stop)

    async def finish(self) -> None:
        """Returns when the answer is complete; raises the error that ended it before."""
        while self.answer.finish_reason is None:
            self.answer.take(await self._next_token())

    async def write_events(self, emit: Emit) -> None:
        """All of the stream. An error after its beginning is its last event."""
        try:
            while self.answer.finish_reason is None:
                await self._write_next_event(emit)
        except EdgeserveError as error:
            await emit(event(error.to_json()))

    def response(self) -> dict[str, Any]:
        """The body of /generate."""
        if not self._ask.details:
            return self._outcome()
        pieces = self.answer.pieces
        tokens = [piece.to_json() for piece in pieces]
        details = {**self._details(), "prefill": [], "tokens": tokens}
        if self._ask.order.sampling.top_logprobs:
            details["top_tokens"] = [_top_json(piece) for piece in pieces]
        return {**self._outcome(), "details": details}

    def close(self) -> None:
        """Frees what the request holds, if it would go on."""
        if self.answer.ends_early:
            self._generation.cancel()

    async def _write_next_event(self, emit: Emit) -> None:
        try:
            async with asyncio.timeout(self._parts.keep_alive_s):
                token = await self._next_token()
        except TimeoutError:
            await emit(KEEP_ALIVE)
            return
        piece = self.answer.take(token)
        document = {
            "index": len(self.answer.pieces),
            "token": piece.to_json(),
            "top_tokens": _top_json(piece),
            "generated_text": None,
            "details": None,
        }
        if self.answer.finish_reason is not None:
            document |= {**self._outcome(), "details": self._details()}
        await emit(event(document))

    async def _next_token(self) -> Token:
        try:
            return await anext(self._generation)
        except StopAsyncIteration:
            raise EdgeserveError(
                f"the pipeline ended the request after {len(self.answer.pieces)} of its "
                f"{self._ask.order.max_new_tokens} tokens, and at no stop token; send it again, "
                "and report this fault of edgeserve"
            ) from None

    def _outcome(self) -> dict[str, Any]:
        tokens = len(self.answer.pieces)
        timing = self._generation.receipt(self._parts.clock.now_s(), tokens)
        text = self._ask.full_text_prefix + self.answer.text
        random = {"weights": "random"} if self._parts.model.weights == "random" else {}
        simulation = self._parts.engine.status().simulation
        paced = {"simulation": simulation} if simulation else {}
        return {"generated_text": text, "timing": timing, **random, **paced}

    def _details(self) -> dict[str, Any]:
        return {
            "finish_reason": self.answer.finish_reason,
            "generated_tokens": len(self.answer.pieces),
            "seed": self._ask.seed,
            "input_length": len(self._ask.order.prompt),
        }


def _top_json(piece: Piece) -> list[dict[str, Any]]:
    return [each.to_json() for each in piece.top]


def _schema() -> dict[str, Any]:
    """The request for /openapi.json, complete in itself. The body is parsed by hand: see
    `request.py`.
    """
    schema = GenerateRequest.model_json_schema()
    parameters = schema.pop("$defs")["Parameters"]
    schema["properties"]["parameters"]["anyOf"][0] = parameters
    return schema
