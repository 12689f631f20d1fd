"""One response, whole or as a stream of events.

Refuses to know how a request was parsed and admitted, and how its output is put together.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from edgeserve.clock import unix_ns
from edgeserve.errors import EdgeserveError
from edgeserve.gateway.api.responses.output import Event, ResponsesOutput
from edgeserve.gateway.api.responses.request import ResponsesRequest
from edgeserve.gateway.api.token_logprobs import is_told, token_logprobs
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.event_stream import Emit
from edgeserve.gateway.generate.answer_events import ChatAnswer, Usage
from edgeserve.gateway.text.answer import Piece


class ResponsesReply:
    def __init__(self, state: AppState, asked: ResponsesRequest, answer: ChatAnswer) -> None:
        self._asked = asked
        self._answer = answer
        self._tokenizer = state.tokenizer
        self._output = ResponsesOutput()
        self._events = 0
        self._head = {
            "id": "resp_" + secrets.token_hex(24),
            "object": "response",
            "created_at": unix_ns() // 10**9,
            "model": state.model.served_as(asked.model),
            **state.notes(),
        }

    @property
    def is_complete(self) -> bool:
        return self._answer.run.answer.finish_reason is not None

    async def finish(self) -> None:
        await self._answer.run.finish()

    def document(self) -> dict[str, Any]:
        """Of an answer that is complete, and was not streamed."""
        for piece in self._answer.run.answer.pieces:
            for _ in self._take(piece):
                pass
        return self._completed()

    async def write_events(self, emit: Emit) -> None:
        """All of the stream. An error after its beginning is told by its last two events."""
        await emit(
            self._numbered(
                {"type": kind, "response": self._response("in_progress")}
                for kind in ("response.created", "response.in_progress")
            )
        )
        try:
            await self._answer.run.write(emit, lambda piece: self._numbered(self._take(piece)))
        except EdgeserveError as error:
            await emit(self._numbered(self._failure(error)))
            return
        response = self._completed()
        last = {"type": f"response.{response['status']}", "response": response}
        await emit(self._numbered([last]))

    def close(self) -> None:
        self._answer.run.close()

    def _take(self, piece: Piece) -> Iterable[Event]:
        told = self._asked.shows_logprobs and is_told(self._answer.run, piece)
        logprobs = [token_logprobs(self._tokenizer, piece)] if told else []
        return self._output.take(self._answer.take(piece), logprobs)

    def _completed(self) -> dict[str, Any]:
        is_cut = self._answer.run.answer.finish_reason == "length"
        timing = {"timing": self._answer.run.receipt()} if self._asked.timing else {}
        ended = {
            "usage": _usage(self._answer.usage),
            **(
                {"incomplete_details": {"reason": "max_output_tokens"}}
                if is_cut
                else {"completed_at": unix_ns() // 10**9}
            ),
        }
        return self._response("incomplete" if is_cut else "completed") | ended | timing

    def _failure(self, error: EdgeserveError) -> list[Event]:
        """As an event of its own, for clients that look for one, and as the end of the response."""
        code = "rate_limit_exceeded" if error.http_status == 429 else "server_error"
        said = {"message": str(error), "code": error.error_type, "param": None}
        failed = self._response("failed") | {"error": {"code": code, "message": str(error)}}
        return [
            {"type": "error", **said},
            {"type": "response.failed", "response": failed},
        ]

    def _response(self, status: str) -> dict[str, Any]:
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
            "output": list(self._output.items),
            "usage": None,
            **self._asked.echoed(),
        }

    def _numbered(self, events: Iterable[Event]) -> bytes:
        """Their bytes, one behind the other."""
        lines = []
        for event in events:
            lines.append(_bytes(event, self._events))
            self._events += 1
        return b"".join(lines)


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _bytes(event: Mapping[str, Any], number: int) -> bytes:
    document = {**event, "sequence_number": number}
    data = json.dumps(document, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode()
