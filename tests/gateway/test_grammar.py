"""Which tokens a grammar allows next, whatever the kind of vocabulary and whoever wrote it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeserve.errors import EdgeserveError, Unprocessable
from edgeserve.families.folder import open_model
from edgeserve.frames.sampling import Sampling
from edgeserve.gateway.text.grammar import Guides, TokenGuide
from edgeserve.gateway.text.json_schema import GRAMMAR_BYTES_MAX
from edgeserve.gateway.text.tokenizer import Tokenizer, open_tokenizer, read_tokenizer
from edgeserve.pipeline.generation import Order
from tests.gateway.drawn import allowed, drawn

VOCAB = 300
EOS = 2
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture
def guides() -> Guides:
    """Of 300 tokens, of which the first 256 are bytes."""
    return Guides(open_tokenizer(None, VOCAB), frozenset({EOS}), VOCAB)


def follow(guide: TokenGuide, text: bytes) -> None:
    for byte in text:
        guide.advance(byte)


# -- what may come -----------------------------------------------------------------------------


async def test_only_what_can_still_become_the_schema_may_come(guides: Guides) -> None:
    guide = await guides.json_schema(PERSON)
    assert allowed(guide, VOCAB) == [ord("{")]
    follow(guide, b'{"name":"abcdef')
    assert allowed(guide, VOCAB) == [ord('"')], "six characters are enough"
    follow(guide, b'","age":12')
    assert set(allowed(guide, VOCAB)) == set(b"0}"), "120 or 12, and no white space"


async def test_a_complete_answer_may_only_end(guides: Guides) -> None:
    guide = await guides.json_schema(PERSON)
    follow(guide, b'{"name":"","age":7}')
    assert allowed(guide, VOCAB) == [EOS]


async def test_an_answer_that_may_go_on_may_also_end(guides: Guides) -> None:
    guide = await guides.regex("[0-9]+")
    assert EOS not in allowed(guide, VOCAB)
    follow(guide, b"1")
    assert allowed(guide, VOCAB) == [EOS, *b"0123456789"]


async def test_any_object_is_an_object(guides: Guides) -> None:
    guide = await guides.json_object()
    assert allowed(guide, VOCAB) == [ord("{")]
    follow(guide, b'{"a":[1,{"b":null}]}')
    assert allowed(guide, VOCAB) == [EOS]


async def test_a_schema_may_stand_in_a_grammar_of_larks(guides: Guides) -> None:
    guide = await guides.lark('start: "<call>" %json {"type": "integer", "maximum": 5} "</call>"')
    follow(guide, b"<call>5")
    assert allowed(guide, VOCAB) == [ord("<")]


async def test_an_expression_may_hold_what_ends_one_in_larks_grammars(guides: Guides) -> None:
    guide = await guides.regex('a/b"\\d\n')
    follow(guide, b'a/b"')
    assert allowed(guide, VOCAB) == [*b"0123456789"]
    follow(guide, b"7\n")
    assert allowed(guide, VOCAB) == [EOS]


async def test_a_copy_goes_its_own_way(guides: Guides) -> None:
    guide = await guides.regex("ab|cd")
    other = guide.copy()
    follow(guide, b"a")
    follow(other, b"c")
    assert (allowed(guide, VOCAB), allowed(other, VOCAB)) == ([ord("b")], [ord("d")])


async def test_a_mask_stays_until_its_answer_goes_on(guides: Guides) -> None:
    """A frame that a stage refused is sent again."""
    guide = await guides.regex("a+")
    assert guide.mask() == guide.mask()
    follow(guide, b"a")
    assert guide.mask() == guide.mask()


async def test_what_logits_have_no_number_for_never_comes() -> None:
    guides = Guides(open_tokenizer(None, VOCAB), frozenset({EOS}), 100)
    guide = await guides.regex("[a-z]")
    assert allowed(guide, VOCAB) == [97, 98, 99]


# -- vocabularies ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["byte_level", "llama", "sentencepiece"])
@pytest.mark.parametrize("seed", range(5))
async def test_an_answer_in_any_vocabulary_reads_as_the_schema_has_it(
    kind: str, seed: int, folders: Mapping[str, Path]
) -> None:
    tokenizer = read_tokenizer(folders[kind])
    assert_drawn_answer_fits(tokenizer, await _guide(tokenizer), seed)


@pytest.mark.parametrize("seed", range(5))
async def test_the_demo_models_own_vocabulary_can_be_guided(seed: int) -> None:
    folder = open_model("demo").folder
    assert folder is not None
    tokenizer = read_tokenizer(folder)
    assert_drawn_answer_fits(tokenizer, await _guide(tokenizer), seed)


def assert_drawn_answer_fits(tokenizer: Tokenizer, guide: TokenGuide, seed: int) -> None:
    order = Order(
        prompt=(1,), max_new_tokens=200, sampling=Sampling(), stop_ids=tokenizer.eos_ids,
        received_s=0.0, guide=guide,
    )  # fmt: skip
    *tokens, end = drawn(tokenizer.vocab_size, seed)(order)
    assert end in tokenizer.eos_ids
    assert not any(map(tokenizer.is_special, tokens))
    jsonschema.validate(json.loads(tokenizer.decode(tokens)), PERSON)


async def test_a_piece_comes_before_the_byte_that_it_is(sentencepiece_folder: Path) -> None:
    """A model writes `{` and not `<0x7B>` where it has both."""
    tokenizer = read_tokenizer(sentencepiece_folder)
    ids = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"{"]
    assert [tokenizer.piece(i) for i in ids] == ["<0x7B>", "{"]
    assert allowed(await _guide(tokenizer), tokenizer.vocab_size) == [ids[1]]


async def test_forced_text_may_come_in_any_tokens_that_spell_it(byte_level_folder: Path) -> None:
    tokenizer = read_tokenizer(byte_level_folder)
    guides = Guides(tokenizer, tokenizer.eos_ids, tokenizer.vocab_size)
    guide = await guides.regex("the dog")
    may = {tokenizer.token_bytes(i) for i in allowed(guide, tokenizer.vocab_size)}
    assert may == {b"t", b"the"}, "all that spells it, not what the tokenizer would"


async def _guide(tokenizer: Tokenizer) -> TokenGuide:
    guides = Guides(tokenizer, tokenizer.eos_ids, tokenizer.vocab_size)
    return await guides.json_schema(PERSON)


# -- what is refused ---------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def in_choices(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for i in range(depth):
        schema = {"pattern": f"a.{{{i}}}b", "anyOf": [schema]}
    return schema


HOSTILE: dict[str, Callable[[Guides], Any]] = {
    "nested": lambda g: g.json_schema(nested(400)),
    "a huge enum": lambda g: g.json_schema({"enum": [f"{i}" for i in range(100_000)]}),
    "a huge regex": lambda g: g.regex("(a|b)" * 30_000),
    "many choices": lambda g: g.json_schema(
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in "abcd"]} for i in range(12)]}
    ),
    "many patterns": lambda g: g.json_schema(
        {"anyOf": [{"patternProperties": {f"^a{{{i}}}$": {} for i in range(40)}}] * 2}
    ),
    "a large divisor": lambda g: g.json_schema({"type": "integer", "multipleOf": 99_991}),
    "divisors that meet": lambda g: g.json_schema(
        {"allOf": [{"type": "integer", "multipleOf": each} for each in (997, 101)]}
    ),
    "many divisors": lambda g: g.json_schema(
        {"prefixItems": [{"type": "number", "multipleOf": 0.0997}] * 60}
    ),
    "divisors of 4,000 digits": lambda g: g.json_schema(
        {"allOf": [{"multipleOf": 10**4000 + each} for each in range(1, 16, 2)]}
    ),
    "500 of them": lambda g: g.json_schema(
        {"allOf": [{"multipleOf": 10**4000 + each} for each in range(1, 1001, 2)]}
    ),
    "half a million parts": lambda g: g.json_schema({"enum": [[]] * 500_000}),
    "patterns that meet": lambda g: g.json_schema(
        {"allOf": [{"pattern": f"a.{{{i}}}b"} for i in range(22)]}
    ),
    "patterns that meet in what they refer to": lambda g: g.json_schema(
        {"$ref": "#/$defs/0", "$defs": {f"{i}": {"pattern": f"a.{{{i}}}b", "$ref":
                                                 f"#/$defs/{i + 1}"} for i in range(22)}}
    ),
    "patterns that meet in a choice": lambda g: g.json_schema(in_choices(22)),
    "no such type": lambda g: g.json_schema({"type": "strin"}),
    "a reference to itself": lambda g: g.json_schema({"$ref": "#"}),
    "a schema elsewhere": lambda g: g.json_schema({"$ref": "http://127.0.0.1:9/schema"}),
    "nothing fits": lambda g: g.json_schema({"type": "object", "properties": {"a": False},
                                             "required": ["a"]}),
    "no regex": lambda g: g.regex("(((("),
    "no grammar": lambda g: g.lark("start: ("),
    "too much of it": lambda g: g.regex("a" * (GRAMMAR_BYTES_MAX + 1)),
    "far too much of it": lambda g: g.regex("a" * 2_000_000),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("hostile", HOSTILE)
async def test_what_cannot_be_followed_is_refused_soon_and_in_few_words(
    hostile: str, guides: Guides
) -> None:
    start_s = time.monotonic()
    with pytest.raises(Unprocessable, match="the grammar ") as error:
        await HOSTILE[hostile](guides)
    assert len(str(error.value)) < 400
    assert time.monotonic() - start_s < 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "repeated"),
    [("(a+)+b", b"a"), ("(a|b|ab){1,900}c", b"ab"), ("(.*a.{20}){20}", b"a"), (".*a.{500}", b"a")],
)
async def test_a_catastrophic_regex_costs_bounded_work_a_token(
    pattern: str, repeated: bytes, guides: Guides
) -> None:
    """It is followed, or refused; and no token holds up the others."""
    guide = await guides.regex(pattern)
    slowest_s = 0.0
    for byte in repeated * 300:
        start_s = time.thread_time()
        try:
            guide.advance(byte)
        except Unprocessable:
            break
        slowest_s = max(slowest_s, time.thread_time() - start_s)
    assert slowest_s < 0.5


@pytest.mark.parametrize("multiple", [1, 10, 0.01, 0.25, 1e-9, 12, 2.5, 100_000])
async def test_what_people_count_in_may_be_asked_for(multiple: float, guides: Guides) -> None:
    prices = {"type": "number", "minimum": 0, "multipleOf": multiple}
    guide = await guides.json_schema({"type": "array", "prefixItems": [prices] * 20})
    assert allowed(guide, VOCAB) == [ord("[")]


async def test_any_number_of_texts_may_have_a_pattern(guides: Guides) -> None:
    """As long as each has one alone."""
    kinds = {f"{i}": {"type": "string", "pattern": f"^{i}[0-9]{{2,3}}$"} for i in range(30)}
    properties: dict[str, Any] = {
        name: {"$ref": f"#/$defs/{name}", "description": "x"} for name in kinds
    }
    properties["more"] = {"allOf": [{"$ref": "#/$defs/0"}], "title": "x"}
    guide = await guides.json_schema(
        {"type": "object", "properties": properties, "$defs": kinds, "title": "x"}
    )
    assert allowed(guide, VOCAB) == [ord("{")]


async def test_a_model_that_cannot_end_cannot_be_guided() -> None:
    guides = Guides(open_tokenizer(None, VOCAB), frozenset(), VOCAB)
    with pytest.raises(Unprocessable, match="no token that ends a text"):
        await guides.json_object()


async def test_a_grammar_too_wide_to_be_followed_is_the_client_s_fault(guides: Guides) -> None:
    """Its first mask is made within llguidance's limits, and what follows is not."""
    kinds = [{"type": "object", "properties": {f"k{i}": {"type": "string"}}} for i in range(800)]
    guide = await guides.json_schema({"anyOf": kinds})
    with pytest.raises(Unprocessable, match="8800 items; max is 2000"):
        guide.advance(ord("{"))


@pytest.mark.parametrize("token", [99, VOCAB + 99])
async def test_a_token_that_was_forbidden_is_our_fault(token: int, guides: Guides) -> None:
    guide = await guides.regex("ab")
    with pytest.raises(
        EdgeserveError, match=f"token {token} was chosen, which the grammar fo"
    ) as e:
        guide.advance(token)
    assert not isinstance(e.value, Unprocessable)
