"""POST /v1/completions, POST /v1/chat/completions and GET /v1/models (of all or of one), for
clients made for OpenAI.

Several answers to one prompt are several sequences. The first is admitted before the others, so
that they find the pages of the prompt computed (`schedule/page_holders.py` shares them). All are
admitted, or none, before an answer begins: what is refused is a status and not an event. Refuses to
know what a body may hold (`openai_request.py`) and how an answer is worded (`openai_answer.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive

from edgeserve.clock import unix_ns
from edgeserve.errors import NotFound, Unprocessable
from edgeserve.gateway.documented import (
    ANYTHING,
    EVENTS,
    JSON,
    LIST,
    OF_REQUESTS,
    STRING,
    WHOLE,
    documented,
    object_with,
)
from edgeserve.gateway.exchange import exchange_of
from edgeserve.gateway.guide import TokenGuide
from edgeserve.gateway.intake import Dialect, Intake
from edgeserve.gateway.openai_answer import Chats, Completions, Form, Reply
from edgeserve.gateway.openai_request import (
    ChatRequest,
    CompletionRequest,
    OpenAIRequest,
    parse_openai,
    request_schema,
)
from edgeserve.gateway.parts import GatewayParts
from edgeserve.gateway.run import Run, together
from edgeserve.gateway.stream import STATUS_GONE, EventStream, until_gone
from edgeserve.gateway.tool_answer import ToolChats
from edgeserve.gateway.tool_request import ToolUse
from edgeserve.pipeline.generation import Order

COMPLETIONS = Dialect(
    prompt="prompt", new_tokens="max_tokens", path="", shorter="", new_tokens_default=16
)
"""OpenAI's default is 16, too."""
CHATS = Dialect(
    prompt="messages",
    new_tokens="max_completion_tokens",
    path="",
    shorter="",
    new_tokens_default=1024,
)
"""OpenAI's default is all that the context leaves. Here that would reserve pages for all of it, and
keep others out; 1024 tokens are a long answer.
"""

ANSWER = object_with(
    id=STRING,
    object=STRING,
    created=WHOLE,
    model=STRING,
    choices=LIST,
    usage=object_with(prompt_tokens=WHOLE, completion_tokens=WHOLE, total_tokens=WHOLE),
)


def openai_routes(parts: GatewayParts) -> APIRouter:
    openai = OpenAI(parts)
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
        content = {"application/json": {"schema": request_schema(kind)}}
        body = {"requestBody": {"required": True, "content": content}}
        router.add_api_route(
            path, serve, methods=["POST"], openapi_extra=body, response_class=Response,
            responses=documented(path, (*OF_REQUESTS, NotFound), {JSON: ANSWER, EVENTS: ANYTHING}),
        )  # fmt: skip
    return router


class OpenAI:
    def __init__(self, parts: GatewayParts) -> None:
        self._parts = parts
        self._completions = Intake(parts, COMPLETIONS)
        self._chats = Intake(parts, CHATS)
        self._started_s = unix_ns() // 10**9

    async def models(self) -> dict[str, Any]:
        """The one model that is served, under each of its names."""
        return {"object": "list", "data": [self._model(name) for name in self._parts.model.names]}

    async def model(self, model: str) -> dict[str, Any]:
        """The one model that is served, as far as it goes by this name."""
        return self._model(self._parts.model.served_as(model))

    def _model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._started_s,
            "owned_by": "edgeserve",
            "max_model_len": self._parts.model.context_tokens,
        }

    async def completions(self, request: Request) -> Response:
        """Goes on with a text, or with several."""
        received_s = self._parts.clock.now_s()
        asked = parse_openai(await request.body(), CompletionRequest)
        self._parts.model.served_as(asked.model)  # or it is refused
        prompts = [await self._tokens(each) for each in asked.prompt]
        guide = await self._guide(asked)
        orders = self._orders(
            self._completions, prompts, asked, received_s, tenant=_tenant(request), guide=guide
        )
        echoes = [  # of prompts that fit the model: what does not is not worth its decoding
            self._text(each) if asked.echo else ""
            for each in asked.prompt
            for _ in range(asked.count)
        ]
        form = Completions(self._parts.tokenizer, echoes, logprobs=asked.logprobs)
        return await self._answer(request, asked, form, orders)

    async def chat(self, request: Request) -> Response:
        """Answers to a conversation, written down by the model's own chat template."""
        received_s = self._parts.clock.now_s()
        asked = parse_openai(await request.body(), ChatRequest)
        self._parts.model.served_as(asked.model)  # or it is refused
        use = self._tool_use(asked)
        text = await self._conversation(asked, use)
        prompt = await self._chats.encode(text, framed=False)
        form = self._chat_form(asked, use)
        guide = await self._guide(asked) if use is None else await self._call_guide(use)
        orders = self._orders(
            self._chats, [prompt], asked, received_s, tenant=_tenant(request), guide=guide
        )
        return await self._answer(request, asked, form, orders)

    async def _answer(
        self, request: Request, asked: OpenAIRequest, form: Form, orders: Sequence[Sequence[Order]]
    ) -> Response:
        exchange = exchange_of(request)
        exchange.reserve([order for alike in orders for order in alike])
        runs = await self._admit(request.receive, asked, orders)
        exchange.runs += runs
        reply = Reply(self._parts, asked, form, runs)
        if asked.stream:
            return EventStream(reply.write_events, reply.close)
        with closing(reply):
            await until_gone(request.receive, reply.finish())
            if not reply.is_complete:
                return Response(status_code=STATUS_GONE)
            return JSONResponse(reply.document())

    async def _admit(
        self, receive: Receive, asked: OpenAIRequest, orders: Sequence[Sequence[Order]]
    ) -> list[Run]:
        """All of them, or none: the error that keeps one out is raised, and frees the others."""
        with ExitStack() as admitted:
            runs = [[await self._run(first, asked, admitted)] for first, *_ in orders]
            if asked.count > 1:
                await until_gone(receive, together(first.next_piece() for (first,) in runs))
            for alike, (_, *others) in zip(runs, orders, strict=True):
                alike += [await self._run(order, asked, admitted) for order in others]
            admitted.pop_all()
        return [run for alike in runs for run in alike]

    async def _run(self, order: Order, asked: OpenAIRequest, admitted: ExitStack) -> Run:
        run = Run(self._parts, order, await self._parts.engine.submit(order), asked.stop or ())
        admitted.callback(run.close)
        return run

    def _orders(
        self,
        intake: Intake,
        prompts: Sequence[Sequence[int]],
        asked: OpenAIRequest,
        received_s: float,
        *,
        tenant: str,
        guide: TokenGuide | None,
    ) -> list[list[Order]]:
        """For each prompt as many as it gets answers."""
        return [
            [
                intake.order(prompt, asked.wishes(answer), received_s, tenant, guide)
                for answer in range(asked.count)
            ]
            for prompt in prompts
        ]

    async def _guide(self, asked: OpenAIRequest) -> TokenGuide | None:
        """What the answers are held to; each gets a copy."""
        form = asked.response_format
        if form is None or form.type == "text":
            return None
        if form.json_schema is None:
            return await self._parts.guides.json_object()
        return await self._parts.guides.json_schema(form.json_schema.schema_)

    async def _tokens(self, prompt: str | list[int]) -> Sequence[int]:
        return prompt if isinstance(prompt, list) else await self._completions.encode(prompt)

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._parts.tokenizer.decode(prompt)

    async def _call_guide(self, use: ToolUse) -> TokenGuide | None:
        grammar = use.grammar()
        return None if grammar is None else await self._parts.guides.lark(grammar)

    def _chat_form(self, asked: ChatRequest, use: ToolUse | None) -> Form:
        tokenizer, logprobs = self._parts.tokenizer, bool(asked.logprobs)
        if use is None:
            return Chats(tokenizer, logprobs=logprobs)
        return ToolChats(tokenizer, use, logprobs=logprobs)

    def _tool_use(self, asked: ChatRequest) -> ToolUse | None:
        """None: no function can be called."""
        template = self._parts.chat_template
        if template is None or not asked.speaks_of_tools:
            return None
        if template.call_syntax is None:
            raise Unprocessable(
                f"there are tools, but the chat template of {self._parts.model.name} has none, or "
                "has them called in a way that is not known here; known are <tool_call> tags and "
                'bare JSON; leave tools and calls out, or set tool_choice to "none"',
                param="tools",
            )
        return ToolUse(asked=asked, syntax=template.call_syntax) if asked.callable else None

    async def _conversation(self, asked: ChatRequest, use: ToolUse | None) -> str:
        if self._parts.chat_template is None:
            raise Unprocessable(
                f"{self._parts.model.name} has no chat template: put a chat_template.jinja into "
                "its folder and start the gateway again, or post a prompt to /v1/completions",
                param="messages",
            )
        tools = None if use is None else use.told()
        return await self._parts.chat_template.render(asked.conversation(), tools)


def _tenant(request: Request) -> str:
    return exchange_of(request).tenant_name
