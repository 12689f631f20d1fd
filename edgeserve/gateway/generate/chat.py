"""Begins the answers of a chat: its messages become a prompt, and the pipeline takes it.

Refuses to know which dialect the chat was asked in, but for the names of the fields that a refusal
speaks of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from edgeserve.errors import Unprocessable
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.request_context import context_of
from edgeserve.gateway.generate.admission import admit
from edgeserve.gateway.generate.answer_events import ChatAnswer
from edgeserve.gateway.generate.conversation import Conversation, HeldTo, JsonAnswer
from edgeserve.gateway.generate.intake import Dialect, Intake, sharing_name
from edgeserve.gateway.generate.tools import ToolUse
from edgeserve.gateway.text.grammar import TokenGuide

NEW_TOKENS_DEFAULT = 1024
"""OpenAI's default is all that the context leaves. Here that would reserve pages for all of it, and
keep others out; 1024 tokens are a long answer.
"""


def chat_dialect(*, messages: str, new_tokens: str) -> Dialect:
    """`messages` and `new_tokens` are what the dialect calls the conversation, and the bound on an
    answer's tokens.
    """
    return Dialect(
        prompt=messages,
        new_tokens=new_tokens,
        path="",
        shorter="",
        new_tokens_default=NEW_TOKENS_DEFAULT,
    )


class ChatStarter:
    def __init__(self, state: AppState, dialect: Dialect) -> None:
        self._state = state
        self._dialect = dialect
        self._intake = Intake(state, dialect)

    async def begin(
        self, request: Request, asked: Conversation, received_s: float
    ) -> list[ChatAnswer]:
        """All answers that are asked for, or the error that keeps them out. The request's body must
        have been read; whoever gets the answers closes their runs.
        """
        use = self._tool_use(asked)
        prompt = await self._tokens(asked, use)
        guide = await self._guide(asked.held_to, use)
        tenant = sharing_name(context_of(request).tenant_name, asked.cache_salt)
        orders = [
            self._intake.order(prompt, each, received_s, tenant, guide) for each in asked.answers
        ]
        options, scoring = asked.answers[0].text_options, asked.scoring
        runs = await admit(self._state, request, [orders], asked.stop, options, scoring=scoring)
        must_call = use is not None and bool(use.tools.required)
        finders = (None if use is None else use.finder() for _ in runs)
        return [
            ChatAnswer(run, finder, must_call=must_call)
            for run, finder in zip(runs, finders, strict=True)
        ]

    async def prompt_tokens(self, asked: Conversation) -> int:
        """How many tokens the conversation has as a prompt. Nothing is generated."""
        return len(await self.tokens(asked))

    async def tokens(self, asked: Conversation) -> Sequence[int]:
        """The conversation as a prompt."""
        return await self._tokens(asked, self._tool_use(asked))

    async def _tokens(self, asked: Conversation, use: ToolUse | None) -> Sequence[int]:
        text, truncate = await self._text(asked, use), asked.answers[0].truncate
        return await self._intake.encode(text, truncate, framed=asked.frames_prompt)

    async def _text(self, asked: Conversation, use: ToolUse | None) -> str:
        if self._state.chat_template is None:
            raise Unprocessable(
                f"{self._state.model.name} has no chat template: put a chat_template.jinja into "
                "its folder and start the gateway again, or post a prompt to /v1/completions",
                param=self._dialect.prompt,
            )
        tools = None if use is None else use.told()
        try:
            return await self._state.chat_template.render(
                asked.messages,
                tools,
                template_arguments=asked.template_arguments,
                asks_for_answer=asked.asks_for_answer,
            )
        except Unprocessable as error:
            if error.numbers.get("param") == "messages":
                error.numbers["param"] = self._dialect.prompt
            raise

    async def _guide(self, answer: HeldTo | None, use: ToolUse | None) -> TokenGuide | None:
        """What the answers are held to; each gets a copy."""
        guides = self._state.guides
        if use is not None:
            # In a thread: spelling schemas out may take a part of a second.
            grammar = await asyncio.to_thread(_grammar, use, answer)
            return None if grammar is None else await guides.lark(grammar)
        return None if answer is None else await answer.guide(guides)

    def _tool_use(self, asked: Conversation) -> ToolUse | None:
        """None: no function can be called."""
        template = self._state.chat_template
        if template is None or not asked.speaks_of_tools:
            return None
        if template.call_syntax is None:
            raise Unprocessable(
                f"there are tools, but the chat template of {self._state.model.name} has none, or "
                "has them called in a way that is not known here; known are <tool_call> tags and "
                'bare JSON; leave tools and calls out, or set tool_choice to "none"',
                param="tools",
            )
        if not asked.tools.functions:
            return None
        return ToolUse(tools=asked.tools, syntax=template.call_syntax)


def _grammar(use: ToolUse, answer: HeldTo | None) -> str | None:
    return use.grammar(answer.rule() if isinstance(answer, JsonAnswer) else None)
