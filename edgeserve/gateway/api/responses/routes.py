"""POST /v1/responses, and what is said to those who ask for a response that was told before.

Refuses to know what a body may hold (`request.py`) and how an answer is worded (`reply.py`).
"""

from __future__ import annotations

from contextlib import closing
from typing import NoReturn

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgeserve.errors import NotFound
from edgeserve.gateway.api.body import read_body
from edgeserve.gateway.api.responses.reply import ResponsesReply
from edgeserve.gateway.api.responses.request import ResponsesRequest
from edgeserve.gateway.app_state import AppState
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
from edgeserve.gateway.generate.chat import ChatStarter, chat_dialect
from edgeserve.gateway.text.json_text import shown

PATH = "/v1/responses"
ONE = "/v1/responses/{response}"
RESPONSES = chat_dialect(messages="input", new_tokens="max_output_tokens")
ANSWER = object_with(
    id=STRING,
    object=STRING,
    created_at=WHOLE,
    model=STRING,
    status=STRING,
    output=LIST,
    usage=object_with(input_tokens=WHOLE, output_tokens=WHOLE, total_tokens=WHOLE),
)


def responses_routes(state: AppState) -> APIRouter:
    responses = Responses(state)
    router = APIRouter(tags=["openai"])
    router.add_api_route(
        PATH, responses.create, methods=["POST"], response_class=Response,
        openapi_extra=takes(ResponsesRequest.schema_document()),
        responses=documented(PATH, (*OF_REQUESTS, NotFound), {JSON: ANSWER, EVENTS: ANYTHING}),
    )  # fmt: skip
    said = documented(ONE, (NotFound,), {})
    del said[200]
    for method in ("GET", "DELETE"):
        router.add_api_route(
            "/v1/responses/{response:path}", responses.kept, methods=[method], responses=said,
            status_code=NotFound.http_status, response_model=None,
            operation_id=f"{method.lower()}_response",
        )  # fmt: skip
    return router


class Responses:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._chats = ChatStarter(state, RESPONSES)

    async def create(self, request: Request) -> Response:
        """Answers a conversation, written down by the model's own chat template."""
        received_s = self._state.clock.now_s()
        asked = await read_body(request, ResponsesRequest)
        self._state.model.served_as(asked.model)  # or it is refused
        (answer,) = await self._chats.begin(request, asked.conversation(), received_s)
        reply = ResponsesReply(self._state, asked, answer)
        if asked.stream:
            return EventStream(reply.write_events, reply.close)
        with closing(reply):
            await until_gone(request.receive, reply.finish())
            if not reply.is_complete:
                return Response(status_code=STATUS_GONE)
            return JSONResponse(reply.document())

    async def kept(self, response: str) -> NoReturn:
        """No response is: a client has it once."""
        raise NotFound(
            f"there is no response {shown(response)}: none is stored here; "
            "keep what POST /v1/responses answers, and send it back as input"
        )
