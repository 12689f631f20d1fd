"""One answer of a chat as typed events, in no API's words.

What a model says is text, with calls of functions in it where there are tools; this is where the
two are told apart. A call comes whole, with its last character, and not piece by piece: before, it
could still turn out to be none. Refuses to know how a dialect words an event.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from edgeserve.errors import Unprocessable
from edgeserve.gateway.generate.run import RunningSequence
from edgeserve.gateway.text.answer import Piece
from edgeserve.gateway.text.tool_call import CallFinder, Part


@dataclass(frozen=True, kw_only=True)
class TextDelta:
    text: str
    """Never empty."""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    index: int
    """Among the calls of its answer, from 0."""
    key: str
    """Unique; a dialect puts its own prefix before it."""
    name: str
    arguments: str
    """An object, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one answer."""

    prompt_tokens: int
    cached_tokens: int
    """Of the prompt: their keys and values were there already."""
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class AnswerEnded:
    finish_reason: str
    """'stop', 'length' or 'tool_calls'. An answer that was cut off may lack a call: then it is
    'length', whatever calls it has.
    """
    stop_string: str | None
    """The one that ended it; None if none did."""
    usage: Usage


ChatEvent = TextDelta | ToolCall | AnswerEnded


class ChatAnswer:
    """`finder` is what finds calls; None if there are no tools."""

    def __init__(
        self, run: RunningSequence, finder: CallFinder | None, *, must_call: bool = False
    ) -> None:
        self.run = run
        self._finder = finder
        self._must_call = must_call
        self._taken = 0
        self._calls = 0

    @property
    def may_call(self) -> bool:
        return self._finder is not None

    @property
    def is_new(self) -> bool:
        """Whether nothing of it has been taken."""
        return self._taken == 0

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage(
            prompt_tokens=len(self.run.order.prompt),
            cached_tokens=self.run.cached_tokens,
            completion_tokens=len(self.run.answer.pieces),
        )

    def take(self, piece: Piece) -> list[ChatEvent]:
        """What `piece` adds, which may be nothing; the last one brings `Ended`. To be asked once
        for each piece, in order: `Run.write` does, for a stream. Raises Unprocessable if the answer
        had to have a call, and is over without one.
        """
        answer = self.run.answer
        assert answer.pieces[self._taken] is piece, "pieces are taken in order, each once"
        self._taken += 1
        is_last = answer.finish_reason is not None and self._taken == len(answer.pieces)
        events = [self._event(part) for part in self._parts(piece.text, is_last=is_last)]
        if is_last and self._must_call and not self._calls:
            raise self._without_call()
        return [*events, self._ended()] if is_last else events

    def take_all(self) -> list[ChatEvent]:
        """Of an answer that is complete, none of which has been taken."""
        return [event for piece in self.run.answer.pieces for event in self.take(piece)]

    def _parts(self, text: str, *, is_last: bool) -> list[Part]:
        if self._finder is None:
            return [text] if text else []
        return self._finder.push(text) + (self._finder.finish() if is_last else [])

    def _event(self, part: Part) -> ChatEvent:
        if isinstance(part, str):
            return TextDelta(text=part)
        index, self._calls = self._calls, self._calls + 1
        key = secrets.token_hex(12)
        return ToolCall(index=index, key=key, name=part.name, arguments=part.arguments)

    def _ended(self) -> AnswerEnded:
        answer = self.run.answer
        reason = "length" if answer.finish_reason == "length" else "stop"
        if self._calls and reason == "stop":
            reason = "tool_calls"
        return AnswerEnded(finish_reason=reason, stop_string=answer.stop_string, usage=self.usage)

    def _without_call(self) -> Unprocessable:
        """It was held to a call, so it is the beginning of one."""
        answer = self.run.answer
        tokens = len(answer.pieces)
        ended = (
            f"its {tokens} tokens were used up"
            if answer.finish_reason == "length"
            else f"what stops it came after {tokens} tokens"
        )
        return Unprocessable(
            f"a function had to be called, but {ended} before the call was complete; allow more "
            "tokens, or bound the arguments in the function's parameters: maxLength for a text, "
            "maxItems for a list, additionalProperties: false for an object",
            param="tools",
            completion_tokens=tokens,
        )
