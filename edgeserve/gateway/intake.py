"""From a well-formed request to an order for the pipeline: the prompt in tokens, and every number
held to the model.

What leaves here fits the model: no token id beyond its vocabulary, no position beyond its context.
The work done for a request that is refused is bounded too. Whether there is room for it now is the
engine's to say.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace

from edgeserve.errors import Unprocessable
from edgeserve.families.sampling import Sampling
from edgeserve.gateway.parts import GatewayParts
from edgeserve.gateway.request import GenerateRequest, Parameters
from edgeserve.pipeline.generation import Order

MAX_NEW_TOKENS_DEFAULT = 100  # TGI's
CHARACTERS_PER_TOKEN_MAX = 64  # 3 to 5 in prose, 16 in the densest of tables; times 4
THREAD_ABOVE_CHARACTERS = 20_000  # about 10 ms of tokenizing: more would hold up everybody's tokens
THREADS_MAX = 2
SEED_BITS = 53  # a drawn seed survives JSON readers that keep numbers as doubles


@dataclass(frozen=True, kw_only=True)
class Ask:
    """An order, and what the answer's form depends on."""

    order: Order
    stop: tuple[str, ...]
    seed: int | None
    """None if nothing was drawn at random."""
    full_text_prefix: str
    """What goes before the generated text: the prompt if `return_full_text`, or nothing."""
    details: bool


class Intake:
    def __init__(self, parts: GatewayParts) -> None:
        self._model = parts.model
        self._eos_ids = parts.eos_ids
        self._tokenizer = parts.tokenizer
        self._threads = asyncio.Semaphore(THREADS_MAX)

    async def ask(self, request: GenerateRequest, received_s: float, tenant: str) -> Ask:
        """Raises Unprocessable if it could never be served here."""
        wishes = request.wishes
        sampling = self._sampling(wishes)
        stop_ids = self._stop_ids(wishes)
        prompt = await self.encode(request.inputs, wishes.truncate)
        order = Order(
            prompt=prompt,
            max_new_tokens=self.new_tokens(len(prompt), wishes.max_new_tokens),
            sampling=sampling,
            stop_ids=stop_ids,
            received_s=received_s,
            tenant=tenant,
            speculate=wishes.speculate is not False,
        )
        return Ask(
            order=order,
            stop=tuple(wishes.stop or ()),
            seed=sampling.seed if sampling.temperature > 0 else None,
            full_text_prefix=request.inputs if wishes.return_full_text else "",
            details=bool(wishes.details),
        )

    async def encode(self, text: str, truncate: int | None = None) -> tuple[int, ...]:
        """The prompt's tokens. `truncate` keeps the last ones, and the one that begins every
        prompt.
        """
        self._refuse_beyond_reason(len(text))
        if len(text) > THREAD_ABOVE_CHARACTERS:
            async with self._threads:
                ids = await asyncio.to_thread(self._tokenizer.encode, text)
        else:
            ids = self._tokenizer.encode(text)
        prompt = self._truncated(ids, truncate)
        self._refuse_stranger(max(prompt, default=0))
        if not prompt:
            raise Unprocessable("inputs has no tokens once it is normalized; write some text")
        return prompt

    def new_tokens(self, prompt_tokens: int, asked: int | None) -> int:
        """How many tokens may be generated: as asked, or the default as far as the context
        allows.
        """
        context = self._model.context_tokens
        room = context - prompt_tokens
        numbers = {"prompt_tokens": prompt_tokens, "context_tokens": context}
        if room < 1:
            raise Unprocessable(
                f"the prompt has {prompt_tokens} tokens, but this model reads at most {context}, "
                f"the answer included; shorten the prompt by at least {1 - room} tokens, or set "
                "parameters.truncate",
                **numbers,
            )
        if asked is not None and asked > room:
            raise Unprocessable(
                f"{prompt_tokens} prompt tokens + {asked} new tokens are more than the {context} "
                f"of this model's context; set parameters.max_new_tokens to at most {room}",
                max_new_tokens=asked,
                **numbers,
            )
        return min(MAX_NEW_TOKENS_DEFAULT, room) if asked is None else asked

    def _refuse_beyond_reason(self, characters: int) -> None:
        """Before the work of tokenizing, which nobody would want the result of."""
        limit = self._model.context_tokens * CHARACTERS_PER_TOKEN_MAX
        if characters > limit:
            raise Unprocessable(
                f"inputs has {characters} characters; at most {limit} are read, which is "
                f"{CHARACTERS_PER_TOKEN_MAX} for each of the {self._model.context_tokens} tokens "
                "of this model's context; send a shorter prompt",
                characters=characters,
                characters_max=limit,
            )

    def _truncated(self, ids: list[int], truncate: int | None) -> tuple[int, ...]:
        if truncate is None or len(ids) <= truncate:
            return tuple(ids)
        first = self._tokenizer.prefix
        kept = max(0, truncate - len(first))
        return (*first, *ids[-kept:]) if kept else tuple(ids[-truncate:])

    def _refuse_stranger(self, token_id: int) -> None:
        if token_id >= self._model.vocab:
            raise Unprocessable(
                f"inputs holds {self._tokenizer.piece(token_id)!r}, token {token_id}, but the "
                f"model knows only the tokens below {self._model.vocab}; leave it out",
                token_id=token_id,
                vocab=self._model.vocab,
            )

    def _stop_ids(self, wishes: Parameters) -> frozenset[int]:
        asked = frozenset(wishes.stop_token_ids or ())
        self._refuse_above_vocab("stop_token_ids", max(asked, default=0), self._model.vocab - 1)
        return asked if wishes.ignore_eos else asked | self._eos_ids

    def _sampling(self, wishes: Parameters) -> Sampling:
        penalty = 1.0 if wishes.repetition_penalty is None else wishes.repetition_penalty
        top_k = wishes.top_k or 0
        self._refuse_above_vocab("top_k", top_k, self._model.vocab)
        if wishes.do_sample and wishes.temperature == 0:
            raise Unprocessable(
                "parameters.do_sample is true, but temperature 0 always takes the most likely "
                "token; set a temperature above 0, or do_sample to false"
            )
        sampling = Sampling(
            repetition_penalty=penalty,
            frequency_penalty=wishes.frequency_penalty or 0.0,
            top_logprobs=wishes.top_n_tokens or 0,
        )
        if not (wishes.do_sample or wishes.temperature):
            return sampling
        return replace(
            sampling,
            temperature=1.0 if wishes.temperature is None else wishes.temperature,
            top_k=top_k,
            top_p=1.0 if wishes.top_p is None else wishes.top_p,
            min_p=wishes.min_p or 0.0,
            seed=secrets.randbits(SEED_BITS) if wishes.seed is None else wishes.seed,
        )

    def _refuse_above_vocab(self, name: str, value: int, limit: int) -> None:
        if value > limit:
            raise Unprocessable(
                f"parameters.{name} has {value}; this model's vocabulary allows at most {limit}",
                vocab=self._model.vocab,
            )
