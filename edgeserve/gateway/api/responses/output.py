"""The output of one response, item by item, and the events that tell of it as it comes.

Pure: events of an answer go in, events of a stream come out, and the items grow meanwhile. A whole
answer is what its events leave behind, so the two cannot differ.

    output_item.added ── content_part.added ── output_text.delta ... ── output_text.done
        ── content_part.done ── output_item.done                              (a message)
    output_item.added ── function_call_arguments.delta ── function_call_arguments.done
        ── output_item.done                                                   (a call)
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edgeserve.gateway.generate.answer_events import AnswerEnded, ChatEvent, TextDelta, ToolCall

Event = dict[str, Any]
"""Without its number in the stream."""


class ResponsesOutput:
    """`items` are complete but for a message that is open."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self._message: dict[str, Any] | None = None
        """The open one, which is the last item."""
        self._untold: list[dict[str, Any]] = []
        """Logprobs of tokens whose text is still to come."""

    def take(self, events: Iterable[ChatEvent], logprobs: Sequence[Any] = ()) -> Iterator[Event]:
        """`logprobs` are those of the tokens that brought the events."""
        self._untold += logprobs
        for event in events:
            if isinstance(event, TextDelta):
                yield from self._text(event.text)
            elif isinstance(event, ToolCall):
                yield from self._close("completed")
                self._untold.clear()
                yield from self._call(event)
            else:
                yield from self._end(event)

    def _text(self, text: str) -> Iterator[Event]:
        if self._message is None:
            yield from self._open()
        told, self._untold = self._untold, []
        part = self._part
        part["text"] += text
        part["logprobs"] += told
        yield {
            "type": "response.output_text.delta",
            **self._place(),
            "delta": text,
            "logprobs": told,
        }

    def _open(self) -> Iterator[Event]:
        self._message = {
            "type": "message",
            "id": "msg_" + secrets.token_hex(24),
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.items.append(self._message)
        yield self._told("response.output_item.added")
        self._message["content"].append(
            {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        )
        yield {"type": "response.content_part.added", **self._place(), "part": dict(self._part)}

    def _close(self, status: str) -> Iterator[Event]:
        if self._message is None:
            return
        part = self._part
        part["logprobs"] += self._untold
        self._untold = []
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        yield {"type": "response.output_text.done", **self._place(), **done}
        yield {"type": "response.content_part.done", **self._place(), "part": part}
        self._message["status"] = status
        yield self._told("response.output_item.done")
        self._message = None

    def _call(self, call: ToolCall) -> Iterator[Event]:
        item = {
            "type": "function_call",
            "id": "fc_" + secrets.token_hex(24),
            "call_id": f"call_{call.key}",
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        self.items.append(item)
        yield self._told("response.output_item.added")
        place = {"item_id": item["id"], "output_index": len(self.items) - 1}
        yield {
            "type": "response.function_call_arguments.delta", **place, "delta": call.arguments,
        }  # fmt: skip
        item |= {"arguments": call.arguments, "status": "completed"}
        yield {
            "type": "response.function_call_arguments.done", **place,
            "name": call.name, "arguments": call.arguments,
        }  # fmt: skip
        yield self._told("response.output_item.done")

    def _end(self, end: AnswerEnded) -> Iterator[Event]:
        """An answer that says nothing is a message that says nothing."""
        if not self.items:
            yield from self._open()
        yield from self._close("incomplete" if end.finish_reason == "length" else "completed")

    def _told(self, kind: str) -> Event:
        """Of the last item, as it is now."""
        item = self.items[-1]
        now = {**item, "content": list(item["content"])} if "content" in item else dict(item)
        return {"type": kind, "output_index": len(self.items) - 1, "item": now}

    def _place(self) -> dict[str, Any]:
        """Of the text of the message that is open."""
        message = self.items[-1]
        return {"item_id": message["id"], "output_index": len(self.items) - 1, "content_index": 0}

    @property
    def _part(self) -> dict[str, Any]:
        part: dict[str, Any] = self.items[-1]["content"][0]
        return part
