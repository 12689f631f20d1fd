"""Answers of a chat that may call functions, in OpenAI's shapes: text, and calls beside it.

In a stream a call comes whole, with its last character, and not piece by piece: before, it could
still turn out to be none. Refuses to know how a call is written down.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from edgeserve.gateway.answer import Piece
from edgeserve.gateway.openai_answer import Chats
from edgeserve.gateway.run import Run
from edgeserve.gateway.tokenizer import Tokenizer
from edgeserve.gateway.tool_call import Call, CallFinder, Part
from edgeserve.gateway.tool_request import ToolUse


class ToolChats(Chats):
    def __init__(self, tokenizer: Tokenizer, use: ToolUse, *, logprobs: bool) -> None:
        super().__init__(tokenizer, logprobs=logprobs)
        self._use = use
        self._streams: dict[int, _Stream] = {}

    def choice(self, index: int, run: Run) -> dict[str, Any]:
        finder = self._use.finder()
        parts = [*finder.push(run.answer.text), *finder.finish()]
        calls = [_told(call) for call in _calls(parts)]
        message = {
            "role": "assistant",
            "content": _text(parts) or (None if calls else ""),
            **({"tool_calls": calls} if calls else {}),
        }
        whole = {**super().choice(index, run), "message": message}
        return whole | _ended_by_calls(run, len(calls))

    def delta(self, index: int, run: Run, piece: Piece) -> dict[str, Any]:
        stream = self._streams.setdefault(index, _Stream(self._use.finder()))
        is_last = run.answer.finish_reason is not None and piece is run.answer.pieces[-1]
        chunk = super().delta(index, run, piece)
        role = {key: value for key, value in chunk["delta"].items() if key == "role"}
        chunk["delta"] = role | stream.delta(piece.text, is_last=is_last)
        return chunk | (_ended_by_calls(run, stream.calls) if is_last else {})


class _Stream:
    """One answer, as it comes."""

    def __init__(self, finder: CallFinder) -> None:
        self.calls = 0
        self._finder = finder

    def delta(self, text: str, *, is_last: bool) -> dict[str, Any]:
        parts = self._finder.push(text) + (self._finder.finish() if is_last else [])
        calls = [{"index": i, **_told(c)} for i, c in enumerate(_calls(parts), self.calls)]
        self.calls += len(calls)
        said = _text(parts)
        return ({"content": said} if said else {}) | ({"tool_calls": calls} if calls else {})


def _calls(parts: Sequence[Part]) -> list[Call]:
    return [part for part in parts if isinstance(part, Call)]


def _text(parts: Sequence[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def _told(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": "call_" + secrets.token_hex(12), "type": "function", "function": function}


def _ended_by_calls(run: Run, calls: int) -> dict[str, Any]:
    """An answer that was cut off may lack a call: that is the more important news."""
    is_cut = run.answer.finish_reason == "length"
    return {"finish_reason": "tool_calls"} if calls and not is_cut else {}
