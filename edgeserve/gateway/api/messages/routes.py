"""POST /v1/messages and POST /v1/messages/count_tokens.

Refuses to know what a body may hold (`request.py`) and how an answer is worded (`reply.py`).
"""

from __future__ import annotations

from contextlib import closing

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgeserve.errors import NotFound, Unprocessable
from edgeserve.gateway.api.body import read_body
from edgeserve.gateway.api.messages.reply import MessagesReply
from edgeserve.gateway.api.messages.request import CountRequest, MessagesPrompt, MessagesRequest
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.edge.event_stream import STATUS_GONE, EventStream, until_gone
from edgeserve.gateway.edge.openapi import (
    ANYTHING,
    EVENTS,
    JSON,
    LIST,
    OF_REQUESTS,
    STRING,
    WHOLE,
    documented,
    object_with,
    takes,
)
from edgeserve.gateway.edge.request_context import context_of
from edgeserve.gateway.generate.chat import ChatStarter, chat_dialect

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
MESSAGES = chat_dialect(messages="messages", new_tokens="max_tokens")
ANSWER = object_with(
    id=STRING,
    type=STRING,
    role=STRING,
    model=STRING,
    content=LIST,
    stop_reason=STRING,
    usage=object_with(input_tokens=WHOLE, output_tokens=WHOLE),
)
COUNTED = object_with(input_tokens=WHOLE)


def messages_routes(state: AppState) -> APIRouter:
    messages = Messages(state)
    router = APIRouter(tags=["anthropic"])
    for path, serve, kind, errors, success in (
        (PATH, messages.create, MessagesRequest, OF_REQUESTS, {JSON: ANSWER, EVENTS: ANYTHING}),
        (COUNT, messages.count, CountRequest, (Unprocessable,), {JSON: COUNTED}),
    ):
        router.add_api_route(
            path, serve, methods=["POST"], response_class=Response,
            openapi_extra=takes(kind.schema_document()),
            responses=documented(path, (*errors, NotFound), success),
        )  # fmt: skip
    return router


class Messages:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._chats = ChatStarter(state, MESSAGES)

    async def create(self, request: Request) -> Response:
        """Answers a conversation, written down by the model's own chat template."""
        received_s = self._state.clock.now_s()
        asked = await read_body(request, MessagesRequest)
        _refuse_other_models(self._state.model, asked)
        (answer,) = await self._chats.begin(request, asked.conversation(), received_s)
        reply = MessagesReply(self._state, asked, answer, context_of(request).request_id)
        if asked.stream:
            return EventStream(reply.write_events, reply.close)
        with closing(reply):
            await until_gone(request.receive, reply.finish())
            if not reply.is_complete:
                return Response(status_code=STATUS_GONE)
            return JSONResponse(reply.document())

    async def count(self, request: Request) -> Response:
        """How many tokens the same would have as a prompt. Nothing is generated."""
        asked = await read_body(request, CountRequest)
        _refuse_other_models(self._state.model, asked)
        tokens = await self._chats.prompt_tokens(asked.conversation())
        return JSONResponse({"input_tokens": tokens})


def _refuse_other_models(model: ModelFacts, asked: MessagesPrompt) -> None:
    """Raises NotFound with what to do about a client that insists on a name."""
    try:
        model.served_as(asked.model)
    except NotFound as error:
        raise NotFound(
            f"{error}; Claude Code asks for ANTHROPIC_MODEL={model.name}, and a gateway that is "
            f"started with --served-model-name {model.name},NAME answers to NAME, too",
            **error.numbers,
        ) from None
