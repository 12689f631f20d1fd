"""How likely the tokens of a prompt were, in the shapes of OpenAI's completions, of vLLM and of
Text Generation Inference. Nothing is before the first token, so it has no log-probability.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgeserve.gateway.api.token_logprobs import finite
from edgeserve.gateway.generate.run import RunningSequence
from edgeserve.gateway.text.answer import alone
from edgeserve.gateway.text.tokenizer import Tokenizer
from edgeserve.pipeline.generation import Token


@dataclass(frozen=True, kw_only=True)
class Told:
    """One token of a completion."""

    text: str
    logprob: float | None
    top: dict[str, float] | None
    """Log-probabilities of the likeliest tokens and of its own, by their text."""
    offset: int
    """Of its text, in characters."""


def echoed(tokenizer: Tokenizer, run: RunningSequence, text: str, top: int) -> list[Told]:
    """The prompt's tokens, which `text` is the text of. `top` is how many others are told."""
    first, *others = run.order.prompt
    at, *offsets = text_offsets(tokenizer, run.order.prompt, text)
    found = [Told(text=_text(tokenizer, first), logprob=None, top=None, offset=at)]
    return found + [
        Told(
            text=_text(tokenizer, token_id),
            logprob=finite(token.logprob),
            top=_by_text(tokenizer, token, top),
            offset=offset,
        )
        for token_id, token, offset in zip(others, run.prompt, offsets, strict=True)
    ]


def prompt_logprobs(
    tokenizer: Tokenizer, run: RunningSequence, top: int
) -> list[dict[str, dict[str, Any]] | None]:
    """vLLM's, by token id."""
    return [None, *(_by_id(tokenizer, token, top) for token in run.prompt)]


def prefill(tokenizer: Tokenizer, run: RunningSequence) -> list[dict[str, Any]]:
    """Text Generation Inference's."""
    first = {"id": run.order.prompt[0], "text": _text(tokenizer, run.order.prompt[0])}
    others = [alone(tokenizer, token).to_json() for token in run.prompt]
    told = ("id", "text", "logprob")
    return [first | {"logprob": None}, *({key: each[key] for key in told} for each in others)]


def text_offsets(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Iterator[int]:
    """Where in the text each token begins. A token whose text is not there, as that of one which
    begins every prompt, begins where the next one does; so does a character's first part.
    """
    utf8, at = codecs.getincrementaldecoder("utf-8")(errors="replace"), 0
    drops_space = tokenizer.drops_first_space
    for token_id in ids:
        yield min(at, len(text))
        own = utf8.decode(tokenizer.token_bytes(token_id))
        if tokenizer.is_special(token_id) and not text.startswith(own, at):
            continue
        if own and drops_space:
            own, drops_space = own.removeprefix(" "), False
        at += len(own)


def _by_text(tokenizer: Tokenizer, token: Token, top: int) -> dict[str, float]:
    """Of several with one text, such as parts of characters, it is the likeliest: who asks whether
    a token was the likeliest of all compares its log-probability with the largest here.
    """
    told = sorted(((token.token, token.logprob), *token.top[:top]), key=lambda each: each[1])
    found = {_text(tokenizer, each): finite(logprob) for each, logprob in told}
    return dict(reversed(found.items()))


def _by_id(tokenizer: Tokenizer, token: Token, top: int) -> dict[str, dict[str, Any]]:
    """Its own first."""
    others = [pair for pair in enumerate(token.top[:top], 1) if pair[1][0] != token.token]
    return {
        str(token_id): {
            "logprob": finite(logprob),
            "rank": rank,
            "decoded_token": _text(tokenizer, token_id),
        }
        for rank, (token_id, logprob) in [(token.rank, (token.token, token.logprob)), *others]
    }


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    """The token's own, which is not what it adds to a text: half a character has one, too."""
    return tokenizer.token_bytes(token_id).decode(errors="replace")
