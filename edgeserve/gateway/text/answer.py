"""One request's tokens become its text, and it is decided when the answer is over. Pure: no
waiting, no HTTP.

The texts of the pieces, joined, are the generated text, whatever is held back for a while: a
character that is not whole yet, or what may be the beginning of a stop string. What stopped the
answer is not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve.gateway.text.options import PLAIN, TextOptions
from edgeserve.gateway.text.stop import StopFilter
from edgeserve.gateway.text.tokenizer import Detokenizer, Tokenizer
from edgeserve.pipeline.generation import Order, Token


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A token, and what it adds to the text that a reader sees."""

    token: int
    text: str
    logprob: float
    special: bool
    top: tuple[Piece, ...] = ()
    """The most likely tokens in its place, if they were asked for; each with the text that it has
    alone.
    """

    def to_json(self) -> dict[str, Any]:
        # JSON has no infinity; a token that the model thought impossible has no logprob to show.
        logprob = self.logprob if math.isfinite(self.logprob) else None
        return {"id": self.token, "text": self.text, "logprob": logprob, "special": self.special}


def alone(tokenizer: Tokenizer, token: Token) -> Piece:
    """With the text that the token has by itself: half a character has one, too."""
    return Piece(
        token=token.token,
        text=tokenizer.token_bytes(token.token).decode(errors="replace"),
        logprob=token.logprob,
        special=tokenizer.is_special(token.token),
        top=tuple(alone(tokenizer, Token(*likely)) for likely in token.top),
    )


class TextOutput:
    """`finish_reason` is TGI's 'length', 'eos_token' or 'stop_sequence' once the answer is over,
    None before.
    """

    def __init__(
        self,
        order: Order,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str],
        options: TextOptions = PLAIN,
    ) -> None:
        self.pieces: list[Piece] = []
        self.finish_reason: str | None = None
        self._order = order
        self._tokenizer = tokenizer
        self._options = options
        shows = options.shows_specials
        self._detokenizer = Detokenizer(tokenizer, order.prompt, shows_specials=shows)
        self._stops = StopFilter(stop, tokenizer.special_ids, keeps_stop=options.keeps_stop)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def stop_string(self) -> str | None:
        """The one that ended the answer; None if none did."""
        return self._stops.found

    @property
    def ends_early(self) -> bool:
        """Whether the engine would go on: it knows nothing of stop strings."""
        return self.finish_reason is None or self._stops.found is not None

    def take(self, token: Token) -> Piece:
        """The next token's piece. Sets `finish_reason` if it is the last one."""
        assert self.finish_reason is None, "the answer is over"
        text, reason = self._text_and_end(token.token)
        piece = Piece(
            token=token.token,
            text=text,
            logprob=token.logprob,
            special=self._tokenizer.is_special(token.token),
            top=alone(self._tokenizer, token).top,
        )
        self.pieces.append(piece)
        self.finish_reason = reason
        return piece

    def end_without_tokens(self) -> None:
        """None was asked for, and the prompt is done."""
        self.finish_reason = "length"

    def _text_and_end(self, token_id: int) -> tuple[str, str | None]:
        ended = self._ended_by(token_id)
        text = self._pushed(token_id, is_last=ended is not None)
        found = self._stops.found
        if found is not None:
            is_end = ended == "eos_token" and self._tokenizer.special_ids.get(found) == token_id
            return text, "eos_token" if is_end else "stop_sequence"
        return (text, None) if ended is None else (text + self._stops.finish(), ended)

    def _pushed(self, token_id: int, *, is_last: bool) -> str:
        """What stop strings leave of it: of the first tokens that have to come, all. A stop token
        has no text, special or not, unless it is asked for.
        """
        is_hidden = token_id in self._order.stop_ids and not self._options.keeps_stop
        text = "" if is_hidden else self._detokenizer.push(token_id)
        text += self._detokenizer.finish() if is_last else ""
        if len(self.pieces) < self._options.min_tokens:
            return text
        given = self._stops.push(text)
        if self._tokenizer.is_special(token_id):
            given += self._stops.push_special(self._tokenizer.piece(token_id))
        return given

    def _ended_by(self, token_id: int) -> str | None:
        """Why the engine ends with this token, by the terms of the order."""
        if token_id in self._order.stop_ids:
            return "eos_token" if token_id in self._order.eos_ids else "stop_sequence"
        is_full = len(self.pieces) + 1 == self._order.max_new_tokens
        return "length" if is_full else None
