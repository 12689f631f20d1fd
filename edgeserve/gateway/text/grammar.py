"""What an answer may be, and from that which tokens may come next: constrained answers.

A grammar is compiled once for a request, and each of its answers gets a `TokenGuide`: it follows
the answer token by token, and has for the next one a bit for each token of the vocabulary. Where
the grammar allows no more text, it allows the tokens alone that end one.

Grammars are llguidance's, and so is what they can say: JSON schemas, regular expressions, and its
dialect of Lark, in which `%json {...}` may stand for a schema. They come from clients, so that text
is bounded here, and the work behind it by llguidance's own limits; what exceeds them is refused.

What this module refuses to know: requests, and how a token is chosen among those that may come.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeserve.errors import EdgeserveError, Unprocessable
from edgeserve.gateway.text.exact_numbers import expression
from edgeserve.gateway.text.json_schema import Closed, Schema, joins, prepared, refuse_large
from edgeserve.gateway.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

PATTERN_PROPERTIES_MAX = 64
"""Each is compared with each: 64 take 0.05 s, 200 take 6 s (docs/LOG.md)."""
MULTIPLES_MAX = 50_000
"""How many `multipleOf`, times what all of them divide. An expression counts up to it, and it is
made before llguidance's limits look: 500,000 take 7 s and 230 MB."""
PATTERNS_MET_MAX = 8
"""Where a text may have to match several `pattern`, llguidance looks for one that does. 8 take
0.05 s, 12 take 1.4 s and 60 MB, and 22 took 19 s and 1 GB (docs/LOG.md)."""
SAID_CHARACTERS_MAX = 240  # of what llguidance says of a grammar: a sentence, and where
COMPILED_AT_ONCE = 2
STEP_FUEL = 50_000
"""For one mask, in llguidance's count. A mask holds up every answer, and this is 8 ms of a hostile
expression; the default of 200,000 is 30. What people write takes 0.5 ms at most (docs/LOG.md)."""
FREELY_SPELT = '%llguidance {"no_forcing": true}\n'
"""Text that is forced may come in any tokens that spell it. llguidance would ask the tokenizer for
them: on the pipeline's thread, and one that puts a space before every text."""
NO_WHITESPACE = {"x-guidance": {"whitespace_flexible": False}}
"""Between the parts of JSON: a model that may write spaces for ever will."""
ANY_OBJECT = {"type": "object"}


class Guides:
    """Makes guides for one model, whose logits have `vocab` numbers."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: frozenset[int], vocab: int) -> None:
        self._tokenizer = tokenizer
        self._words = min(tokenizer.vocab_size, vocab)
        self._eos_ids = [i for i in sorted(eos_ids) if i < self._words]
        self._threads = asyncio.Semaphore(COMPILED_AT_ONCE)

    def prepare(self) -> None:
        """Reads the vocabulary. That holds the interpreter for 0.1 s with 32,000 tokens: to be done
        before there are answers that would stand still.
        """
        if self._eos_ids:
            _ = self._ll_tokenizer

    async def json_object(self) -> TokenGuide:
        """Any object."""
        return await self.json_schema(ANY_OBJECT)

    async def json_schema(self, schema: Mapping[str, Any], closed: Closed = "none") -> TokenGuide:
        """Spelling it out may take a part of a second, so that is done in a thread."""
        (rule,) = await asyncio.to_thread(_json_rules_of, schema, closed)
        return await self.lark(f"start: {rule}")

    async def regex(self, pattern: str) -> TokenGuide:
        """The whole answer matches `pattern`: Rust's dialect, whose digits are 0 to 9 here."""
        refuse_large(pattern)
        return await self.lark(await asyncio.to_thread(_regex_rule, pattern))

    async def choice(self, choices: Sequence[str]) -> TokenGuide:
        """The whole answer is one of them."""
        alternatives = (json.dumps(each, ensure_ascii=False) for each in choices)
        return await self.lark("start: " + " | ".join(alternatives))

    async def lark(self, text: str) -> TokenGuide:
        """Raises Unprocessable with what is wrong with it. Compiled in a thread: the limits allow a
        second of work, and all of it is done without holding the interpreter.
        """
        refuse_large(text)
        if not self._eos_ids:
            raise Unprocessable(
                "this model has no token that ends a text, so it cannot end an answer that is "
                "complete: leave the grammar out, or serve a model whose files name an eos token"
            )
        async with self._threads:
            return await asyncio.to_thread(self._compile, text)

    def _compile(self, text: str) -> TokenGuide:
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_lark(FREELY_SPELT + text)
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return TokenGuide(matcher)

    @cached_property
    def _ll_tokenizer(self) -> LLTokenizer:
        from llguidance import LLTokenizer, TokenizerWrapper

        words = _Words(self._tokenizer, self._words, self._eos_ids)
        return LLTokenizer(TokenizerWrapper(words), eos_token=self._eos_ids)

    @cached_property
    def _limits(self) -> LLParserLimits:
        from llguidance import LLParserLimits

        return LLParserLimits(step_lexer_fuel=STEP_FUEL, verbose_errors=False)


class TokenGuide:
    """Where in the grammar an answer is. A `pipeline.generation.Guide`."""

    def __init__(self, matcher: LLMatcher, mask: bytes | None = None) -> None:
        self._matcher = matcher
        self._mask = self._next_mask() if mask is None else mask

    def copy(self) -> TokenGuide:
        """For another answer, that begins where this one is."""
        return TokenGuide(self._matcher.deep_copy(), self._mask)

    def mask(self) -> bytes:
        """A bit for each token, set if it may come next; the lowest of each byte comes first."""
        return self._mask

    def advance(self, token: int) -> None:
        """The answer goes on with `token`. Raises EdgeserveError if it cannot, and Unprocessable if
        nothing can come behind it.
        """
        if not self._matcher.consume_token(token):
            if self._allows(token):  # the mask is made with less work than the next state
                raise _refused(self._matcher.get_error())
            raise EdgeserveError(
                f"token {token} was chosen, which the grammar forbids; send the request again, and "
                "report this fault of edgeserve"
            )
        self._mask = self._next_mask()

    def _allows(self, token: int) -> bool:
        byte = self._mask[token // 8 :][:1]
        return bool(byte and byte[0] >> token % 8 & 1)

    def _next_mask(self) -> bytes:
        """Computed with the token before, so that a grammar without a way on is found out there."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise _refused(self._matcher.get_error())
        if self._matcher.is_stopped() and not self._matcher.is_accepting():
            raise _refused("no text matches it, or none that begins as this answer does")
        return mask


class _Words:
    """The first `count` tokens of a vocabulary as llguidance reads them. Those without bytes are
    never allowed.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, count: int, eos_ids: Sequence[int]) -> None:
        ids = range(count)
        self.eos_token_id = eos_ids[0]
        self.special_token_ids = [i for i in ids if tokenizer.is_special(i) or i in eos_ids]
        self.tokens = _once([tokenizer.token_bytes(i) for i in ids])

    def __call__(self, _text: str | bytes) -> list[int]:
        """Asked for where text is forced in certain tokens, which `FREELY_SPELT` does without."""
        return []


def _regex_rule(pattern: str) -> str:
    from llguidance import regex_to_lark

    return f"start: /{regex_to_lark(pattern, use_ascii='d')}/"


def _json_rules_of(schema: Mapping[str, Any], closed: Closed) -> list[str]:
    return json_rules([prepared(schema, closed)])


def json_rules(schemas: Sequence[Schema], spacing: Mapping[str, Any] = NO_WHITESPACE) -> list[str]:
    """Schemas that were `prepared`, as they stand beside one another in a grammar in Lark's
    dialect. Raises Unprocessable if they ask for work that llguidance does not bound.
    """
    refuse_large("".join(map(json.dumps, schemas)))  # before they are walked through
    _refuse_costly(schemas)
    return [expression(schema, spacing) for schema in schemas]


def _refuse_costly(schemas: Sequence[Mapping[str, Any]]) -> None:
    parts = [*_parts(schemas)]
    named = [part.get("patternProperties") for part in parts]
    patterns = sum(len(each) for each in named if isinstance(each, Mapping))
    if patterns > PATTERN_PROPERTIES_MAX:
        raise _refused(f"it has {patterns} patternProperties, of at most {PATTERN_PROPERTIES_MAX}")
    met = sum("pattern" in part for part in parts) if any(map(joins, parts)) else 0
    if met > PATTERNS_MET_MAX:
        raise _refused(
            f"it has {met} pattern, and parts that are joined: then at most {PATTERNS_MET_MAX}"
        )
    _refuse_multiples([each for part in parts for each in _divisor(part.get("multipleOf"))])


def _parts(schemas: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """All objects within them."""
    pending: list[Any] = [*schemas]
    while pending:
        part = pending.pop()
        if isinstance(part, Mapping):
            yield part
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _refuse_multiples(divisors: Sequence[int]) -> None:
    divided = 1
    for divisor in divisors:
        divided = math.lcm(divided, divisor)
        if len(divisors) * divided > MULTIPLES_MAX:  # at once: it may grow to a million digits
            raise _refused(
                f"it has {len(divisors)} multipleOf; their number times what all of them divide "
                f"may be at most {MULTIPLES_MAX}"
            )


def _divisor(number: Any) -> list[int]:
    """Without its powers of ten, which cost nothing: 25 of 0.25 and of 2500."""
    if isinstance(number, bool | str) or not isinstance(number, int | float):
        return []
    digits = "".join(map(str, Decimal(repr(number)).as_tuple().digits)).rstrip("0")
    return [int(digits)] if digits else []


def _once(tokens: Sequence[bytes]) -> list[bytes]:
    """Of those with the same bytes the last one: llguidance knows one of them only. Sentencepiece's
    vocabularies begin with a token for each byte, and a model writes those that come later.
    """
    last = {word: i for i, word in enumerate(tokens)}
    return [word if last[word] == i else b"" for i, word in enumerate(tokens)]


def _refused(why: str) -> Unprocessable:
    first = why.strip().partition("\n")[0]
    if len(first) > SAID_CHARACTERS_MAX:
        first = first[: SAID_CHARACTERS_MAX - 3] + "..."
    return Unprocessable(f"the grammar cannot be followed: {first}; change the schema or grammar")
