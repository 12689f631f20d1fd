"""Answers in OpenAI's shapes, whole or in chunks, one sequence or several side by side.

`Reply` has what both routes share; `Completions` and `Chats` say what one answer looks like on
each. Refuses to know how a request was parsed and admitted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import itemgetter
from typing import Any, Protocol

import edgeserve
from edgeserve.clock import unix_ns
from edgeserve.errors import EdgeserveError
from edgeserve.gateway.api.openai.request import OpenAIRequest
from edgeserve.gateway.api.openai.usage import usage_so_far
from edgeserve.gateway.api.prompt_logprobs import Told, echoed, prompt_logprobs
from edgeserve.gateway.api.token_logprobs import finite, is_told, token_logprobs, token_text
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.event_stream import Emit
from edgeserve.gateway.edge.openai_error import openai_error
from edgeserve.gateway.generate.answer_events import (
    AnswerEnded,
    ChatAnswer,
    ChatEvent,
    TextDelta,
    ToolCall,
)
from edgeserve.gateway.generate.aside import aside
from edgeserve.gateway.generate.run import RunningSequence, together
from edgeserve.gateway.text.answer import Piece
from edgeserve.gateway.text.tokenizer import Tokenizer

FINGERPRINT = f"edgeserve-{edgeserve.__version__}"
"""With which the same seed gives the same tokens; clients of TGI want it to be a string."""
DONE = b"data: [DONE]\n\n"


class AnswerShape(Protocol):
    """How one route words an answer. It may have a `finish_reason` of its own."""

    prefix: str
    """Of the ids that its answers get."""
    whole: str
    chunk: str

    def choice(self, index: int, run: RunningSequence) -> dict[str, Any]: ...

    def delta(self, index: int, run: RunningSequence, piece: Piece) -> dict[str, Any]:
        """What `piece`, the newest one, adds."""
        ...


class OpenAIReply:
    def __init__(
        self,
        state: AppState,
        asked: OpenAIRequest,
        form: AnswerShape,
        runs: Sequence[RunningSequence],
    ) -> None:
        self._asked = asked
        self._form = form
        self._runs = tuple(runs)
        self._tokenizer = state.tokenizer
        self._head = {
            "id": form.prefix + secrets.token_hex(12),
            "created": unix_ns() // 10**9,
            "model": state.model.served_as(asked.model),
            "system_fingerprint": FINGERPRINT,
            **state.notes(),
        }

    @property
    def streams(self) -> bool:
        return bool(self._asked.stream)

    @property
    def is_complete(self) -> bool:
        return all(run.answer.finish_reason is not None for run in self._runs)

    @property
    def told(self) -> int:
        """How many tokens a whole answer tells of, those of prompts included."""
        top = 1 + (self._asked.prompt_logprobs or 0) + self._asked.alternatives
        return top * sum(len(run.prompt) + len(run.answer.pieces) for run in self._runs)

    async def finish(self) -> None:
        await together(run.finish() for run in self._runs)

    def document(self) -> dict[str, Any]:
        choices = [self._choice(i, run) for i, run in enumerate(self._runs)]
        return {
            **self._head,
            "object": self._form.whole,
            "choices": choices,
            "usage": self._usage(),
            **self._timing(),
            **self._prompt_logprobs(choices),
        }

    async def write_events(self, emit: Emit) -> None:
        """All of the stream. An error after its beginning is its last event."""
        try:
            await together(self._write(emit, i, run) for i, run in enumerate(self._runs))
        except EdgeserveError as error:
            await emit(_event(openai_error(error)))
            return
        if self._wants_usage or self._asked.timing:
            usage = {"usage": self._usage()} if self._wants_usage else {}
            await emit(self._event([], usage | self._timing()))
        await emit(DONE)

    def close(self) -> None:
        for run in self._runs:
            run.close()

    @property
    def _wants_usage(self) -> bool:
        options = self._asked.stream_options
        return options is not None and bool(options.include_usage)

    async def _write(self, emit: Emit, index: int, run: RunningSequence) -> None:
        await run.write(emit, partial(self._chunk, index, run))
        if not run.answer.pieces:  # a completion, which looks alike whole and in chunks
            choice = await aside(len(run.prompt), self._choice, index, run)
            await emit(self._choice_event(run, choice))

    def _chunk(self, index: int, run: RunningSequence, piece: Piece) -> bytes:
        delta = self._form.delta(index, run, piece)
        return self._choice_event(
            run, {"index": index, "finish_reason": _finish_reason(run), **delta}
        )

    def _choice(self, index: int, run: RunningSequence) -> dict[str, Any]:
        choice = self._form.choice(index, run)
        return {"index": index, "finish_reason": _finish_reason(run), **choice}

    def _choice_event(self, run: RunningSequence, choice: dict[str, Any]) -> bytes:
        return self._event([choice], self._usage_beside(run))

    def _usage_beside(self, run: RunningSequence) -> dict[str, Any]:
        """Of a chunk: with continuous usage that of its own answer so far, as vLLM has it."""
        if not self._wants_usage:
            return {}
        options = self._asked.stream_options
        is_continuous = options is not None and options.continuous_usage_stats
        return {"usage": usage_so_far([run]) if is_continuous else None}

    def _event(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        return _event({**self._head, "object": self._form.chunk, "choices": choices, **more})

    def _usage(self) -> dict[str, Any]:
        return usage_so_far(self._runs, self._asked.count)

    def _prompt_logprobs(self, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Where vLLM has them: beside the choices of a chat, which has one prompt, and in each
        choice of completions.
        """
        top = self._asked.prompt_logprobs
        if top is None:
            return {}
        told = [prompt_logprobs(self._tokenizer, run, top) for run in self._runs]
        if self._form.whole == Chats.whole:
            return {"prompt_logprobs": told[0]}
        for choice, each in zip(choices, told, strict=True):
            choice["prompt_logprobs"] = each
        return {}

    def _timing(self) -> dict[str, Any]:
        return {"timing": self._runs[0].receipt()} if self._asked.timing else {}


class Completions:
    """`echoes` has what goes before each answer's text: its prompt, whose text may be empty, or
    None if nothing does.
    """

    prefix = "cmpl-"
    whole = chunk = "text_completion"

    def __init__(
        self, tokenizer: Tokenizer, echoes: Sequence[str | None], *, logprobs: int | None
    ) -> None:
        self._tokenizer = tokenizer
        self._echoes = echoes
        self._logprobs = logprobs

    def choice(self, index: int, run: RunningSequence) -> dict[str, Any]:
        text = (self._echoes[index] or "") + run.answer.text
        return {"text": text, "logprobs": self._shown(index, run, run.answer.pieces)}

    def delta(self, index: int, run: RunningSequence, piece: Piece) -> dict[str, Any]:
        echo = self._echoes[index] if len(run.answer.pieces) == 1 else None
        return {"text": (echo or "") + piece.text, "logprobs": self._shown(index, run, [piece])}

    def _shown(
        self, index: int, run: RunningSequence, newest: Sequence[Piece]
    ) -> dict[str, Any] | None:
        """Of the newest pieces, and before the first one of the echo."""
        if self._logprobs is None:
            return None
        echo = self._echoes[index]
        told = []
        if echo is not None and len(newest) == len(run.answer.pieces):
            told = echoed(self._tokenizer, run, echo, self._logprobs)
        start = len(echo or "") + len(run.answer.text) - sum(len(piece.text) for piece in newest)
        offsets = accumulate((len(piece.text) for piece in newest), initial=start)
        told += [
            Told(
                text=token_text(self._tokenizer, piece),
                logprob=finite(piece.logprob),
                top=self._likeliest(piece),
                offset=at,
            )
            for piece, at in zip(newest, offsets, strict=False)
            # With an echo all are told: who asks for it counts them from the prompt's end.
            if echo is not None or is_told(run, piece)
        ]
        return {
            "tokens": [each.text for each in told],
            "token_logprobs": [each.logprob for each in told],
            "top_logprobs": [each.top for each in told] if self._logprobs else None,
            "text_offset": [each.offset for each in told],
        }

    def _likeliest(self, piece: Piece) -> dict[str, float]:
        """By their text, and the chosen one among them. Of several with one text, such as parts of
        characters, it is the one that is told, or else the likeliest.
        """
        told = (*reversed(piece.top), piece)
        found = {token_text(self._tokenizer, each): finite(each.logprob) for each in told}
        return dict(sorted(found.items(), key=itemgetter(1), reverse=True))


class Chats:
    """Text, and calls of functions beside it. `answers` are those of the runs, in their order."""

    prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def __init__(
        self, tokenizer: Tokenizer, answers: Sequence[ChatAnswer], *, logprobs: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._answers = answers
        self._logprobs = logprobs

    def choice(self, index: int, run: RunningSequence) -> dict[str, Any]:
        events = self._answers[index].take_all()
        calls, text = _calls(events), _text(events)
        message = {
            "role": "assistant",
            "content": text or (None if calls else ""),
            **({"tool_calls": [_told(call) for call in calls]} if calls else {}),
        }
        logprobs = self._shown(run, run.answer.pieces)
        return {"message": message, "logprobs": logprobs, **_end(events)}

    def delta(self, index: int, run: RunningSequence, piece: Piece) -> dict[str, Any]:
        answer = self._answers[index]
        role = {"role": "assistant"} if answer.is_new else {}
        events = answer.take(piece)
        calls, text = _calls(events), _text(events)
        delta = {
            **role,
            **({"content": text} if text or not answer.may_call else {}),
            **({"tool_calls": [{"index": c.index, **_told(c)} for c in calls]} if calls else {}),
        }
        return {"delta": delta, "logprobs": self._shown(run, [piece]), **_end(events)}

    def _shown(self, run: RunningSequence, newest: Sequence[Piece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        told = [piece for piece in newest if is_told(run, piece)]
        return {"content": [token_logprobs(self._tokenizer, piece) for piece in told]}


def _calls(events: Sequence[ChatEvent]) -> list[ToolCall]:
    return [each for each in events if isinstance(each, ToolCall)]


def _told(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{call.key}", "type": "function", "function": function}


def _text(events: Sequence[ChatEvent]) -> str:
    return "".join(each.text for each in events if isinstance(each, TextDelta))


def _end(events: Sequence[ChatEvent]) -> dict[str, str]:
    ends = [each for each in events if isinstance(each, AnswerEnded)]
    return {"finish_reason": ends[0].finish_reason} if ends else {}


def _finish_reason(run: RunningSequence) -> str | None:
    reason = run.answer.finish_reason
    return "stop" if reason in ("eos_token", "stop_sequence") else reason


def _event(document: dict[str, Any]) -> bytes:
    """With a space, which OpenAI's own has: not every client leaves it to chance."""
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
