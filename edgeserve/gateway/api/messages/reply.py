"""One message, whole or as a stream of events.

Refuses to know how a request was parsed and admitted, and how its content is put together.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

from edgeserve.errors import EdgeserveError
from edgeserve.gateway.api.messages.output import Event, MessagesOutput
from edgeserve.gateway.api.messages.request import MessagesRequest
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.edge.anthropic_error import anthropic_error
from edgeserve.gateway.edge.event_stream import Emit
from edgeserve.gateway.generate.answer_events import ChatAnswer, Usage
from edgeserve.gateway.text.answer import Piece


class MessagesReply:
    """`request_id` is told with an error."""

    def __init__(
        self, state: AppState, asked: MessagesRequest, answer: ChatAnswer, request_id: str
    ) -> None:
        self._asked = asked
        self._answer = answer
        self._request_id = request_id
        self._output = MessagesOutput()
        self._head = {
            "id": "msg_" + secrets.token_hex(12),
            "type": "message",
            "role": "assistant",
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
        for _ in self._output.take(self._answer.take_all()):
            pass
        return self._message() | self._timing()

    async def write_events(self, emit: Emit) -> None:
        """All of the stream. An error after its beginning is its last event."""
        await emit(_bytes([{"type": "message_start", "message": self._message()}]))
        try:
            await self._answer.run.write(emit, self._told, keep_alive=PING)
        except EdgeserveError as error:
            await emit(_bytes([anthropic_error(error, self._request_id)]))
            return
        ended = {
            "type": "message_delta",
            "delta": self._output.stop,
            "usage": _usage(self._answer.usage),
        }
        await emit(_bytes([ended | self._timing(), {"type": "message_stop"}]))

    def close(self) -> None:
        self._answer.run.close()

    def _told(self, piece: Piece) -> bytes:
        """A piece that adds nothing yet, as of a call before its end, is silence, too."""
        return _bytes(self._output.take(self._answer.take(piece))) or PING

    def _message(self) -> dict[str, Any]:
        """As it is now. What of the prompt was cached is known with the first token, so a stream
        says it at its end.
        """
        return {
            **self._head,
            "content": list(self._output.blocks),
            **self._output.stop,
            "usage": _usage(self._answer.usage),
        }

    def _timing(self) -> dict[str, Any]:
        return {"timing": self._answer.run.receipt()} if self._asked.timing else {}


def _usage(usage: Usage) -> dict[str, int]:
    """Anthropic counts what was cached apart, and not among the input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _bytes(events: Iterable[Event]) -> bytes:
    """One behind the other."""
    told = (
        f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n"
        for event in events
    )
    return "".join(told).encode()


PING = _bytes([{"type": "ping"}])
