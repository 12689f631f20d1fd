"""POST /v1/completions, POST /v1/chat/completions and GET /v1/models (of all or of one), for
clients made for OpenAI.

Refuses to know what a body may hold (`request.py`), how an answer is worded
(`answer.py`), and how a chat becomes sequences (`generate/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from edgeserve.clock import unix_ns
from edgeserve.errors import NotFound
from edgeserve.gateway.api.body import read_body
from edgeserve.gateway.api.openai.answer import Chats, Completions, OpenAIReply
from edgeserve.gateway.api.openai.request import ChatRequest, CompletionRequest
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
from edgeserve.gateway.edge.request_context import context_of
from edgeserve.gateway.generate.admission import admit
from edgeserve.gateway.generate.aside import aside, written
from edgeserve.gateway.generate.chat import ChatStarter, chat_dialect
from edgeserve.gateway.generate.intake import Dialect, Intake, sharing_name

COMPLETIONS = Dialect(
    prompt="prompt", new_tokens="max_tokens", path="", shorter="", new_tokens_default=16
)
"""OpenAI's default is 16, too."""
CHATS = chat_dialect(messages="messages", new_tokens="max_completion_tokens")

ANSWER = object_with(
    id=STRING,
    object=STRING,
    created=WHOLE,
    model=STRING,
    choices=LIST,
    usage=object_with(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE),
)


def openai_routes(state: AppState) -> APIRouter:
    openai = OpenAI(state)
    router = APIRouter(tags=["openai"])
    models = documented("/v1/models", (), {JSON: object_with(object=STRING, data=LIST)})
    router.add_api_route("/v1/models", openai.models, responses=models)
    one = "/v1/models/{model}"
    said = documented(one, (NotFound,), {JSON: object_with(id=STRING, object=STRING)})
    router.add_api_route("/v1/models/{model:path}", openai.model, responses=said)
    kinds = (
        ("/v1/completions", openai.completions, CompletionRequest),
        ("/v1/chat/completions", openai.chat, ChatRequest),
    )
    for path, serve, kind in kinds:
        body = takes(kind.schema_document())
        router.add_api_route(
            path, serve, methods=["POST"], openapi_extra=body, response_class=Response,
            responses=documented(path, (*OF_REQUESTS, NotFound), {JSON: ANSWER, EVENTS: ANYTHING}),
        )  # fmt: skip
    return router


class OpenAI:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._completions = Intake(state, COMPLETIONS)
        self._chats = ChatStarter(state, CHATS)
        self._started_s = unix_ns() // 10**9

    async def models(self) -> dict[str, Any]:
        """The one model that is served, under each of its names."""
        return {"object": "list", "data": [self._model(name) for name in self._state.model.names]}

    async def model(self, model: str) -> dict[str, Any]:
        """The one model that is served, as far as it goes by this name."""
        return self._model(self._state.model.served_as(model))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "edgeserve",
            "max_model_len": self._state.model.context_tokens,
            "capabilities": self._state.capabilities,
        }

    async def completions(self, request: Request) -> Response:
        """Goes on with a text, or with several."""
        received_s = self._state.clock.now_s()
        asked = await read_body(request, CompletionRequest)
        self._state.model.served_as(asked.model)  # or it is refused
        prompts = [await self._tokens(each, asked) for each in asked.prompt]
        guide = None if asked.held_to is None else await asked.held_to.guide(self._state.guides)
        tenant = sharing_name(context_of(request).tenant_name, asked.cache_salt or "")
        orders = [
            [
                self._completions.order(prompt, asked.wishes(answer), received_s, tenant, guide)
                for answer in range(asked.count)
            ]
            for prompt in prompts
        ]
        echoes = [  # of prompts that fit the model: what does not is not worth its decoding
            await aside(len(prompt), self._text, given, prompt, asked) if asked.echo else None
            for given, prompt in zip(asked.prompt, prompts, strict=True)
            for _ in range(asked.count)
        ]
        form = Completions(self._state.tokenizer, echoes, logprobs=asked.logprobs)
        stop, options, scoring = asked.stop or (), asked.text_options, asked.scoring
        runs = await admit(self._state, request, orders, stop, options, scoring=scoring)
        return await self._answer(request, OpenAIReply(self._state, asked, form, runs))

    async def chat(self, request: Request) -> Response:
        """Answers to a conversation, written down by the model's own chat template."""
        received_s = self._state.clock.now_s()
        asked = await read_body(request, ChatRequest)
        self._state.model.served_as(asked.model)  # or it is refused
        answers = await self._chats.begin(request, asked.conversation(), received_s)
        form = Chats(self._state.tokenizer, answers, logprobs=bool(asked.logprobs))
        runs = [answer.run for answer in answers]
        return await self._answer(request, OpenAIReply(self._state, asked, form, runs))

    async def _answer(self, request: Request, reply: OpenAIReply) -> Response:
        if reply.streams:
            return EventStream(reply.write_events, reply.close)
        with closing(reply):
            await until_gone(request.receive, reply.finish())
            if not reply.is_complete:
                return Response(status_code=STATUS_GONE)
            body = await aside(reply.told, lambda: written(reply.document()))
            return Response(body, media_type="application/json")

    async def _tokens(self, prompt: str | list[int], asked: CompletionRequest) -> Sequence[int]:
        await asyncio.sleep(0)  # there may be many, each of some milliseconds
        truncate = asked.truncate_prompt_tokens
        if isinstance(prompt, list):
            return prompt if truncate is None else prompt[-truncate:]
        framed = asked.add_special_tokens is not False
        return await self._completions.encode(prompt, truncate, framed=framed)

    def _text(self, given: str | list[int], prompt: Sequence[int], asked: CompletionRequest) -> str:
        """What was read of a prompt; of tokens also the special ones, which a text spells out."""
        if isinstance(given, str) and asked.truncate_prompt_tokens is None:
            return given
        return self._state.tokenizer.decode(prompt, shows_specials=isinstance(given, list))
