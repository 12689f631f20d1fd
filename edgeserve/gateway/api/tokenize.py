"""POST /tokenize and /detokenize, and GET /tokenizer_info, as vLLM has them: for clients that count
or choose tokens without the model's files.

Nothing is generated, and no quota is asked for it. Long texts are worked on in a thread, so that
nobody's tokens wait. Refuses to know what a body may hold (`tokenize_request.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from edgeserve.errors import NotFound, Unprocessable
from edgeserve.gateway.api.body import parse_body, read_body
from edgeserve.gateway.api.tokenize_request import Detokenize, TokenizeChat, TokenizePrompt
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.openapi import JSON, LIST, STRING, WHOLE, documented, object_with, takes
from edgeserve.gateway.generate.aside import aside, written
from edgeserve.gateway.generate.chat import ChatStarter, chat_dialect
from edgeserve.gateway.generate.intake import THREAD_ABOVE_CHARACTERS, THREADS_MAX
from edgeserve.gateway.text.json_text import parse_json

THREAD_ABOVE_TOKENS = 5_000  # about 5 ms of looking up what each stands for
FOUND = object_with(count=WHOLE, max_model_len=WHOLE, tokens=LIST)


def tokenizer_routes(state: AppState) -> APIRouter:
    routes = _Routes(state)
    router = APIRouter(tags=["tokenizer"])
    errors = (Unprocessable, NotFound)
    either = {"anyOf": [TokenizePrompt.schema_document(), TokenizeChat.schema_document()]}
    for path, serve, schema, answer in (
        ("/tokenize", routes.tokenize, either, FOUND),
        (
            "/detokenize",
            routes.detokenize,
            Detokenize.schema_document(),
            object_with(prompt=STRING),
        ),
    ):
        body = takes(schema)
        router.add_api_route(
            path, serve, methods=["POST"], openapi_extra=body, response_class=Response,
            responses=documented(path, errors, {JSON: answer}),
        )  # fmt: skip
    said = documented("/tokenizer_info", (), {JSON: object_with(vocab_size=WHOLE)})
    router.add_api_route("/tokenizer_info", routes.info, responses=said)
    return router


class _Routes:
    def __init__(self, state: AppState) -> None:
        self._state = state
        self._tokenizer = state.tokenizer
        self._chats = ChatStarter(state, chat_dialect(messages="messages", new_tokens="max_tokens"))
        self._threads = asyncio.Semaphore(THREADS_MAX)

    async def tokenize(self, request: Request) -> Response:
        """The tokens of a text, however long, or of a conversation as a prompt."""
        body = await request.body()
        asked = await aside(len(body), _asked, body)
        self._state.model.served_as(asked.model)  # or it is refused
        tokens = await self._tokens(asked)
        return await aside(len(tokens), self._found, tokens, asked)

    async def detokenize(self, request: Request) -> Response:
        """The text of tokens, special ones written out."""
        asked = await read_body(request, Detokenize)
        self._state.model.served_as(asked.model)  # or it is refused
        vocab = max(self._state.model.vocab, self._tokenizer.vocab_size)
        highest = max(asked.tokens, default=0)
        if highest >= vocab:
            raise Unprocessable(
                f"tokens has {highest}; this model's vocabulary allows at most {vocab - 1}",
                vocab=vocab,
            )
        return JSONResponse({"prompt": await self._text(asked.tokens)})

    async def info(self) -> dict[str, Any]:
        """What the tokenizer puts around a text, its special tokens, and the chat template."""
        named = self._tokenizer.named
        ends = sorted(self._state.eos_ids)
        template = self._state.chat_template
        return {
            "model_max_length": self._state.model.context_tokens,
            "vocab_size": self._tokenizer.vocab_size,
            "bos_token": named.get("bos_token"),
            "eos_token": named.get("eos_token")
            or (self._tokenizer.piece(ends[0]) if ends else None),
            "pad_token": named.get("pad_token"),
            "unk_token": named.get("unk_token"),
            "add_bos_token": bool(self._tokenizer.prefix),
            "add_eos_token": bool(self._tokenizer.suffix),
            "chat_template": None if template is None else template.told,
        }

    def _found(self, tokens: Sequence[int], asked: TokenizePrompt | TokenizeChat) -> Response:
        pieces = map(self._tokenizer.piece, tokens)
        document = {
            "count": len(tokens),
            "max_model_len": self._state.model.context_tokens,
            "tokens": [*tokens],
            "token_strs": [*pieces] if asked.return_token_strs else None,
        }
        return Response(written(document), media_type=JSON)

    async def _tokens(self, asked: TokenizePrompt | TokenizeChat) -> Sequence[int]:
        if isinstance(asked, TokenizeChat):
            return await self._chats.tokens(asked.conversation())
        framed = asked.add_special_tokens is not False
        encode = self._tokenizer.encode if framed else self._tokenizer.encode_bare
        if len(asked.prompt) <= THREAD_ABOVE_CHARACTERS:
            return encode(asked.prompt)
        async with self._threads:
            return await asyncio.to_thread(encode, asked.prompt)

    async def _text(self, tokens: Sequence[int]) -> str:
        if len(tokens) <= THREAD_ABOVE_TOKENS:
            return self._tokenizer.decode(tokens, shows_specials=True)
        async with self._threads:
            return await asyncio.to_thread(self._tokenizer.decode, tokens, shows_specials=True)


def _asked(body: bytes) -> TokenizePrompt | TokenizeChat:
    document = parse_json(body)
    is_chat = isinstance(document, dict) and "messages" in document
    kind: type[TokenizeChat | TokenizePrompt] = TokenizeChat if is_chat else TokenizePrompt
    return parse_body(body, kind)
