"""The content of one message, block by block, and the events that tell of it as it comes.

Pure: events of an answer go in, events of a stream come out, and the blocks grow meanwhile. A whole
answer is what its events leave behind, so the two cannot differ.

    content_block_start ── content_block_delta (text_delta) ... ── content_block_stop    (a text)
    content_block_start ── content_block_delta (input_json_delta) ── content_block_stop  (a call)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from edgeserve.gateway.generate.answer_events import AnswerEnded, ChatEvent, TextDelta, ToolCall

Event = dict[str, Any]


class MessagesOutput:
    """`blocks` are complete but for a text that is open."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self.stop: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}
        """Why the message ended; nothing before."""
        self._is_open = False
        """Whether the last block is a text that may go on."""

    def take(self, events: Iterable[ChatEvent]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, TextDelta):
                yield from self._text(event.text)
            elif isinstance(event, ToolCall):
                yield from self._close()
                yield from self._call(event)
            else:
                yield from self._close()
                self.stop = _stop(event)

    def _text(self, text: str) -> Iterator[Event]:
        if not self._is_open:
            yield self._start({"type": "text", "text": ""})
            self._is_open = True
        self.blocks[-1]["text"] += text
        yield self._delta({"type": "text_delta", "text": text})

    def _call(self, call: ToolCall) -> Iterator[Event]:
        head = {"type": "tool_use", "id": f"toolu_{call.key}", "name": call.name, "input": {}}
        yield self._start(head)
        self.blocks[-1]["input"] = json.loads(call.arguments)
        yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        yield {"type": "content_block_stop", "index": self._index}

    def _close(self) -> Iterator[Event]:
        if self._is_open:
            self._is_open = False
            yield {"type": "content_block_stop", "index": self._index}

    def _start(self, block: dict[str, Any]) -> Event:
        self.blocks.append(dict(block))
        return {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: dict[str, Any]) -> Event:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    @property
    def _index(self) -> int:
        return len(self.blocks) - 1


def _stop(end: AnswerEnded) -> dict[str, str | None]:
    """Whoever has calls to make is told so, whatever else ended the answer."""
    if end.finish_reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if end.finish_reason == "tool_calls":
        return {"stop_reason": "tool_use", "stop_sequence": None}
    reason = "end_turn" if end.stop_string is None else "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": end.stop_string}
