"""Log-probabilities of tokens, in the shape that OpenAI's chat completions and responses share."""

from __future__ import annotations

import math
from typing import Any

from edgeserve.gateway.generate.run import RunningSequence
from edgeserve.gateway.text.answer import Piece
from edgeserve.gateway.text.tokenizer import Tokenizer

LOGPROB_MIN = -9999.0  # what OpenAI says of a token that cannot be: JSON has no infinity


def token_logprobs(tokenizer: Tokenizer, piece: Piece) -> dict[str, Any]:
    likeliest = [_told(tokenizer, each) for each in piece.top]
    return {**_told(tokenizer, piece), "top_logprobs": likeliest}


def is_told(run: RunningSequence, piece: Piece) -> bool:
    """The token that says that the answer is over is no part of it."""
    return piece.token not in run.order.stop_ids


def token_text(tokenizer: Tokenizer, piece: Piece) -> str:
    """The token's own, which is not what it adds to a text: half a character has one, too."""
    return tokenizer.token_bytes(piece.token).decode(errors="replace")


def finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOGPROB_MIN


def _told(tokenizer: Tokenizer, piece: Piece) -> dict[str, Any]:
    return {
        "token": token_text(tokenizer, piece),
        "logprob": finite(piece.logprob),
        "bytes": list(tokenizer.token_bytes(piece.token)),
    }
