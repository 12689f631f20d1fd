"""From a well-formed request to an order for the pipeline: the prompt in tokens, and every number
held to the model.

What leaves here fits the model: no token id beyond its vocabulary, no position beyond its context.
The work done for a request that is refused is bounded too. Whether there is room for it now is the
engine's to say.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgeserve.errors import Unprocessable
from edgeserve.frames.sampling import SEED_MAX, Sampling
from edgeserve.gateway.app_state import AppState
from edgeserve.gateway.generate.parameters import Parameters
from edgeserve.gateway.text.grammar import TokenGuide
from edgeserve.gateway.text.min_tokens import MinTokens
from edgeserve.gateway.text.options import TextOptions
from edgeserve.pipeline.generation import Order, Scoring

CHARACTERS_PER_TOKEN_MAX = 64  # 3 to 5 in prose, 16 in the densest of tables; times 4
THREAD_ABOVE_CHARACTERS = 20_000  # about 10 ms of tokenizing: more would hold up everybody's tokens
THREADS_MAX = 2
SEED_BITS = 53  # a drawn seed survives JSON readers that keep numbers as doubles


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a route calls the fields that a refusal speaks of, and how long its answers are where
    nothing is said.
    """

    prompt: str
    new_tokens: str
    path: str
    """Goes before the names of all other fields."""
    shorter: str
    """How a prompt can be shortened but by the client's own hand."""
    new_tokens_default: int


NATIVE = Dialect(
    prompt="inputs",
    new_tokens="parameters.max_new_tokens",
    path="parameters.",
    shorter=", or set parameters.truncate",
    new_tokens_default=100,  # TGI's
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """An order, and what the answer's form depends on."""

    order: Order
    stop: tuple[str, ...]
    text_options: TextOptions
    seed: int | None
    """None if nothing was drawn at random."""
    full_text_prefix: str
    """What goes before the generated text: the prompt if `return_full_text`, or nothing."""
    details: bool


class Intake:
    def __init__(self, state: AppState, dialect: Dialect = NATIVE) -> None:
        self._model = state.model
        self._state = state
        self._tokenizer = state.tokenizer
        self._dialect = dialect
        self._threads = asyncio.Semaphore(THREADS_MAX)

    async def ask(self, text: str, wishes: Parameters, received_s: float, tenant: str) -> Ask:
        """Raises Unprocessable if it could never be served here."""
        prompt = await self.encode(text, wishes.truncate)
        order = self.order(prompt, wishes, received_s, tenant, await self._guide(wishes))
        if wishes.decoder_input_details:
            order = replace(order, scoring=Scoring())
        return Ask(
            order=order,
            stop=tuple(wishes.stop or ()),
            text_options=wishes.text_options,
            seed=order.sampling.seed if order.sampling.temperature > 0 else None,
            full_text_prefix=text if wishes.return_full_text else "",
            details=bool(wishes.details or wishes.decoder_input_details),
        )

    async def _guide(self, wishes: Parameters) -> TokenGuide | None:
        if wishes.grammar is None:
            return None
        kind, value = wishes.grammar["type"], wishes.grammar["value"]
        guides = self._state.guides
        return await (guides.regex(value) if kind == "regex" else guides.json_schema(value))

    async def encode(
        self, text: str, truncate: int | None = None, *, framed: bool = True
    ) -> tuple[int, ...]:
        """The prompt's tokens. `truncate` keeps the last ones, and the one that begins every
        prompt. A text that is not `framed` brings its own beginning.
        """
        self._refuse_beyond_reason(len(text))
        encode = self._tokenizer.encode if framed else self._tokenizer.encode_bare
        if len(text) > THREAD_ABOVE_CHARACTERS:
            async with self._threads:
                ids = await asyncio.to_thread(encode, text)
        else:
            ids = encode(text)
        prompt = self._truncated(ids, truncate)
        if not prompt:
            raise Unprocessable(
                f"{self._dialect.prompt} has no tokens once it is normalized; write some text"
            )
        return prompt

    def order(  # a request's two halves, and whose it is
        self,
        prompt: Sequence[int],
        wishes: Parameters,
        received_s: float,
        tenant: str,
        guide: TokenGuide | None = None,
    ) -> Order:
        """Raises Unprocessable for whatever does not fit the model."""
        self._refuse_stranger(max(prompt))
        # Behind an answer that is complete a guide allows nothing but its end.
        ends_itself = not wishes.ignore_eos or guide is not None
        eos_ids = self._state.eos_ids if ends_itself else frozenset[int]()
        new_tokens = self.new_tokens(len(prompt), wishes.max_new_tokens)
        stop_ids = self._named_stops(wishes) | eos_ids
        late = self._min_tokens(wishes.min_tokens or 0, new_tokens, stop_ids, guide)
        return Order(
            prompt=tuple(prompt),
            max_new_tokens=new_tokens,
            sampling=self._sampling(wishes),
            stop_ids=stop_ids,
            eos_ids=eos_ids,
            received_s=received_s,
            tenant=tenant,
            speculate=wishes.speculate is not False,
            guide=late if guide is None else guide.copy(),
        )

    def new_tokens(self, prompt_tokens: int, asked: int | None) -> int:
        """How many tokens may be generated: as asked, or the default as far as the context
        allows.
        """
        context = self._model.context_tokens
        room = context - prompt_tokens
        numbers = {"prompt_tokens": prompt_tokens, "context_tokens": context}
        least = 0 if asked == 0 else 1
        if room < least:
            raise Unprocessable(
                f"the prompt has {prompt_tokens} tokens, but this model reads at most {context}, "
                f"the answer included; shorten the prompt by at least {least - room} tokens"
                f"{self._dialect.shorter}",
                **numbers,
            )
        if asked is not None and asked > room:
            raise Unprocessable(
                f"{prompt_tokens} prompt tokens + {asked} new tokens are more than the {context} "
                f"of this model's context; set {self._dialect.new_tokens} to at most "
                f"{room}",
                max_new_tokens=asked,
                **numbers,
            )
        return min(self._dialect.new_tokens_default, room) if asked is None else asked

    def _min_tokens(
        self, count: int, new_tokens: int, stop_ids: frozenset[int], guide: TokenGuide | None
    ) -> MinTokens | None:
        """What keeps an answer from ending too early; None if nothing has to."""
        path = self._dialect.path
        if count > new_tokens:
            raise Unprocessable(
                f"{path}min_tokens is {count}, but the answer gets at most {new_tokens} tokens; "
                f"set it to at most {new_tokens}, or {self._dialect.new_tokens} to more"
            )
        if count and guide is not None:
            raise Unprocessable(
                f"{path}min_tokens is {count}, but the answer is held to a grammar, which says "
                "when it is over; leave one of them out"
            )
        return MinTokens(count, stop_ids, self._model.vocab) if count and stop_ids else None

    def _refuse_beyond_reason(self, characters: int) -> None:
        """Before the work of tokenizing, which nobody would want the result of."""
        limit = self._model.context_tokens * CHARACTERS_PER_TOKEN_MAX
        if characters > limit:
            raise Unprocessable(
                f"{self._dialect.prompt} has {characters} characters; at most {limit} are read, "
                f"which is {CHARACTERS_PER_TOKEN_MAX} for each of the "
                f"{self._model.context_tokens} tokens of this model's context; send a shorter "
                "prompt",
                characters=characters,
                characters_max=limit,
            )

    def _truncated(self, ids: list[int], truncate: int | None) -> tuple[int, ...]:
        if truncate is None or len(ids) <= truncate:
            return tuple(ids)
        begins = ids[: len(self._tokenizer.prefix)] == [*self._tokenizer.prefix]
        first = self._tokenizer.prefix if begins else ()
        kept = max(0, truncate - len(first))
        return (*first, *ids[-kept:]) if kept else tuple(ids[-truncate:])

    def _refuse_stranger(self, token_id: int) -> None:
        if token_id >= self._model.vocab:
            raise Unprocessable(
                f"{self._dialect.prompt} holds {self._tokenizer.piece(token_id)!r}, token "
                f"{token_id}, but the model knows only the tokens below {self._model.vocab}; "
                "leave it out",
                token_id=token_id,
                vocab=self._model.vocab,
            )

    def _named_stops(self, wishes: Parameters) -> frozenset[int]:
        """A stop string that is all of a special token's name is that token."""
        asked = frozenset(wishes.stop_token_ids or ())
        self._refuse_above_vocab("stop_token_ids", max(asked, default=0), self._model.vocab - 1)
        named = (self._tokenizer.special_ids.get(stop) for stop in wishes.stop or ())
        return asked | {each for each in named if each is not None and each < self._model.vocab}

    def _sampling(self, wishes: Parameters) -> Sampling:
        penalty = 1.0 if wishes.repetition_penalty is None else wishes.repetition_penalty
        top_k = max(0, wishes.top_k or 0)
        self._refuse_above_vocab("top_k", top_k, self._model.vocab)
        biases = {int(token): bias for token, bias in (wishes.logit_bias or {}).items()}
        self._refuse_above_vocab("logit_bias", max(biases, default=0), self._model.vocab - 1)
        if wishes.do_sample and wishes.temperature == 0:
            raise Unprocessable(
                "parameters.do_sample is true, but temperature 0 always takes the most likely "
                "token; set a temperature above 0, or do_sample to false"
            )
        sampling = Sampling(
            repetition_penalty=penalty,
            frequency_penalty=wishes.frequency_penalty or 0.0,
            presence_penalty=wishes.presence_penalty or 0.0,
            logit_bias=tuple(biases.items()),
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
            seed=_seed(wishes.seed),
        )

    def _refuse_above_vocab(self, name: str, value: int, limit: int) -> None:
        if value > limit:
            raise Unprocessable(
                f"{self._dialect.path}{name} has {value}; this model's vocabulary allows at most "
                f"{limit}",
                vocab=self._model.vocab,
            )


def sharing_name(tenant: str, salt: str) -> str:
    """Under which pages of prompts are shared: a tenant's, and within it, of one salt."""
    return f"{tenant}\0{salt}" if salt else tenant


def _seed(asked: int | None) -> int:
    """A negative one is the number with the same 64 bits, but for -1, which is as good as none."""
    return secrets.randbits(SEED_BITS) if asked in (None, -1) else asked % (SEED_MAX + 1)
