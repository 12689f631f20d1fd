"""POST /generate, /generate_stream and /: TGI's request and response, with a receipt.

Admission is decided before an answer begins, so that 'overloaded' is a status and not an event of a
stream that began with 200. A client that goes away frees its pages at once.
"""

from __future__ import annotations

from contextlib import closing
from functools import cache
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgeserve.errors import EdgeserveError
from edgeserve.gateway.api.prompt_logprobs import prefill
from edgeserve.gateway.api.tgi.request import GenerateRequest, parse_request, wants_stream
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.event_stream import STATUS_GONE, Emit, EventStream, event, until_gone
from edgeserve.gateway.edge.openapi import (
    ANYTHING,
    EVENTS,
    JSON,
    OF_REQUESTS,
    RECEIPT,
    STRING,
    documented,
    object_with,
    takes,
)
from edgeserve.gateway.edge.request_context import context_of
from edgeserve.gateway.generate.aside import aside
from edgeserve.gateway.generate.intake import Ask, Intake
from edgeserve.gateway.generate.run import RunningSequence
from edgeserve.gateway.text.answer import Piece

ANSWER = object_with(generated_text=STRING, timing=RECEIPT)


def native_routes(state: AppState) -> APIRouter:
    native = Native(state)
    router = APIRouter(tags=["native"])
    body = takes(_schema())
    for path, serve, success in (
        ("/generate", native.generate, {JSON: ANSWER}),
        ("/generate_stream", native.stream, {EVENTS: ANYTHING}),
        ("/", native.as_asked, {JSON: {"type": "array", "items": ANSWER}, EVENTS: ANYTHING}),
    ):
        router.add_api_route(
            path, serve, methods=["POST"], openapi_extra=body, response_class=Response,
            responses=documented(path, OF_REQUESTS, success),
        )  # fmt: skip
    return router


class Native:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._intake = Intake(state)

    async def generate(self, request: Request) -> Response:
        """Answers when the text is complete."""
        document = await self._document(request)
        return Response(status_code=STATUS_GONE) if document is None else JSONResponse(document)

    async def stream(self, request: Request) -> Response:
        """Answers with an event for each token; the last one also carries text, details and
        timing.
        """
        reply = await self._admit(request, streams=True)
        return EventStream(reply.write_events, reply.close)

    async def as_asked(self, request: Request) -> Response:
        """Either, as `stream` says: where clients of TGI post to that know its address alone. They
        expect the answer in a list.
        """
        body = await request.body()
        if await aside(len(body), wants_stream, body):
            return await self.stream(request)
        document = await self._document(request)
        return Response(status_code=STATUS_GONE) if document is None else JSONResponse([document])

    async def _document(self, request: Request) -> dict[str, Any] | None:
        """None if nobody waits for it any more."""
        with closing(await self._admit(request, streams=False)) as reply:
            await until_gone(request.receive, reply.run.finish())
            if reply.run.answer.finish_reason is None:
                return None
            return await aside(len(reply.run.prompt), reply.response)

    async def _admit(self, request: Request, *, streams: bool) -> GenerateReply:
        """Raises whatever keeps the request from being served."""
        received_s = self._state.clock.now_s()
        body = await request.body()
        checked = await aside(len(body), parse_request, body, streams=streams)
        context = context_of(request)
        ask = await self._intake.ask(
            checked.inputs, checked.wishes, received_s, context.tenant_name
        )
        context.reserve([ask.order])
        generation = await self._state.engine.submit(ask.order)
        run = RunningSequence(self._state, ask.order, generation, ask.stop, ask.text_options)
        context.runs.append(run)
        return GenerateReply(self._state, ask, run)


class GenerateReply:
    """What is said of a run, in TGI's shape."""

    def __init__(self, state: AppState, ask: Ask, run: RunningSequence) -> None:
        self.run = run
        self._state = state
        self._ask = ask

    async def write_events(self, emit: Emit) -> None:
        """All of the stream. An error after its beginning is its last event."""
        try:
            await self.run.write(emit, self._event)
        except EdgeserveError as error:
            await emit(event(error.to_json()))

    def response(self) -> dict[str, Any]:
        """The body of /generate."""
        if not self._ask.details:
            return self._outcome()
        pieces = self.run.answer.pieces
        tokens = [piece.to_json() for piece in pieces]
        is_scored = self._ask.order.scoring is not None
        told = prefill(self._state.tokenizer, self.run) if is_scored else []
        details = {**self._details(), "prefill": told, "tokens": tokens}
        if self._ask.order.sampling.top_logprobs:
            details["top_tokens"] = [_top_json(piece) for piece in pieces]
        return {**self._outcome(), "details": details}

    def close(self) -> None:
        self.run.close()

    def _event(self, piece: Piece) -> bytes:
        document = {
            "index": len(self.run.answer.pieces),
            "token": piece.to_json(),
            "top_tokens": _top_json(piece),
            "generated_text": None,
            "details": None,
        }
        if self.run.answer.finish_reason is not None:
            document |= {**self._outcome(), "details": self._details()}
        return event(document)

    def _outcome(self) -> dict[str, Any]:
        text = self._ask.full_text_prefix + self.run.answer.text
        return {"generated_text": text, "timing": self.run.receipt(), **self._state.notes()}

    def _details(self) -> dict[str, Any]:
        return {
            "finish_reason": self.run.answer.finish_reason,
            "generated_tokens": len(self.run.answer.pieces),
            "seed": self._ask.seed,
            "input_length": len(self._ask.order.prompt),
        }


def _top_json(piece: Piece) -> list[dict[str, Any]]:
    return [each.to_json() for each in piece.top]


@cache
def _schema() -> dict[str, Any]:
    """The request for /openapi.json, complete in itself. The body is parsed by hand: see
    `request.py`.
    """
    schema = GenerateRequest.model_json_schema()
    parameters = schema.pop("$defs")["Parameters"]
    schema["properties"]["parameters"]["anyOf"][0] = parameters
    return schema
