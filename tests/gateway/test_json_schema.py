"""What answers may be under schemas that llguidance would read in another way: by what they say."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import pytest

from edgeserve.errors import Unprocessable
from edgeserve.gateway.text.exact_numbers import integers_between
from edgeserve.gateway.text.grammar import Guides, TokenGuide, json_rules
from edgeserve.gateway.text.json_schema import FORMATS, GRAMMAR_BYTES_MAX, Closed, prepared
from edgeserve.gateway.text.tokenizer import open_tokenizer

VOCAB = 300
EOS = 2
BEYOND = 2**53 + 1
"""The first whole number that no double is equal to."""
LEAST, GREATEST = -(2**63), 2**63 - 1
NOT_A_DOUBLE: dict[str, Any] = {"type": "integer", "minimum": BEYOND}


@pytest.fixture(scope="module")
def guides() -> Guides:
    """Of 300 tokens, of which the first 256 are bytes."""
    return Guides(open_tokenizer(None, VOCAB), frozenset({EOS}), VOCAB)


def may_come(guide: TokenGuide, token: int) -> bool:
    return bool(guide.mask()[token // 8] >> (token % 8) & 1)


async def accepted(
    guides: Guides, schema: dict[str, Any], texts: list[str], closed: Closed = "none"
) -> list[str]:
    """Those of `texts` that are a whole answer."""
    start = await guides.json_schema(schema, closed)
    return [text for text in texts if is_answer(start.copy(), text)]


def is_answer(guide: TokenGuide, text: str) -> bool:
    for byte in text.encode():
        if not may_come(guide, byte):
            return False
        guide.advance(byte)
    return may_come(guide, EOS)


# -- formats -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["int32", "uri-reference", "regex", "json-pointer", "password", "x", "", 5, None, ["a"]]
)
async def test_a_format_that_is_not_known_is_an_annotation(form: Any, guides: Guides) -> None:
    within: dict[str, Any] = {"type": "string", "format": form, "maxLength": 2}
    schema = {"type": "array", "items": {"anyOf": [within, {"$ref": "#/$defs/a"}]},
              "$defs": {"a": {"type": "integer", "format": form}}}  # fmt: skip
    assert await accepted(guides, schema, ['["ab",7]', '["abc"]']) == ['["ab",7]']


@pytest.mark.parametrize("form", sorted(FORMATS - {"unknown"}))
async def test_a_format_that_is_known_is_held(form: str, guides: Guides) -> None:
    assert await accepted(guides, {"type": "string", "format": form}, ['"?!"']) == []


async def test_what_only_looks_like_a_format_is_data(guides: Guides) -> None:
    schema = {"properties": {"format": {"const": {"format": "int9", "minLength": "x"}}},
              "required": ["format"], "additionalProperties": False}  # fmt: skip
    right = '{"format":{"format":"int9","minLength":"x"}}'
    texts = [right, '{"format":{}}', "{}"]
    assert await accepted(guides, {"type": "object", **schema}, texts) == [right]


# -- closed objects ----------------------------------------------------------------------------

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 3},
        "more": {"type": "object", "properties": {"n": {"type": "null"}}},
        "tags": {"type": "object"},
        "any": {"type": "object", "properties": {}, "additionalProperties": True},
    },
}


@pytest.mark.parametrize(
    ("closed", "open_ones"),
    [("none", ["", "more", "tags", "any"]), ("named", ["tags", "any"]), ("all", ["any"])],
)
async def test_closed_objects_have_no_other_properties(
    closed: Closed, open_ones: list[str], guides: Guides
) -> None:
    texts = {
        "": '{"name":"x","z":1}',
        "more": '{"more":{"z":1}}',
        "tags": '{"tags":{"z":1}}',
        "any": '{"any":{"z":1}}',
    }
    found = await accepted(guides, PLACE, [*texts.values(), '{"name":"x"}'], closed)
    assert found == [*(texts[name] for name in open_ones), '{"name":"x"}']


async def test_parts_that_are_joined_stay_open(guides: Guides) -> None:
    """Closing one of them would forbid what the other asks for."""
    one = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    other = {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}
    text = '{"a":null,"b":null}'
    assert await accepted(guides, {"allOf": [one, other]}, [text], "all") == [text]


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "right", "wrong"),
    [
        ({"minimum": 1e3, "maximum": 1e4}, [1000, 10_000], [999, 10_001]),
        ({"exclusiveMinimum": 1e3, "exclusiveMaximum": 1e4}, [1001, 9999], [1000, 10_000]),
        ({"minimum": -2.5e0, "maximum": 25e-1}, [-2, 2], [-3, 3]),
        ({"minimum": BEYOND}, [BEYOND, 10**18], [BEYOND - 1]),
        ({"maximum": BEYOND}, [BEYOND, 0, -(10**18)], [BEYOND + 1]),
        ({"exclusiveMaximum": BEYOND}, [BEYOND - 1], [BEYOND]),
        ({"exclusiveMinimum": BEYOND - 1}, [BEYOND], [BEYOND - 1]),
        ({"minimum": BEYOND, "maximum": BEYOND}, [BEYOND], [BEYOND - 1, BEYOND + 1]),
        ({"minimum": LEAST, "maximum": GREATEST}, [LEAST, GREATEST, 0], [LEAST - 1, GREATEST + 1]),
        ({"minimum": LEAST}, [LEAST, GREATEST], [LEAST - 1]),
        ({"minimum": 0, "maximum": GREATEST}, [0, GREATEST, GREATEST - 1], [-1, GREATEST + 1]),
        ({"maximum": GREATEST - 1}, [GREATEST - 1, LEAST], [GREATEST]),
        ({"minimum": 0, "maximum": 2**64 - 1}, [0, GREATEST], [-1, 2**64]),
        ({"minimum": -1e300, "maximum": 1e300}, [0, -(10**18), 10**18], []),
        ({"minimum": float("-inf"), "maximum": 3}, [3, -7], [4]),
    ],
)
async def test_bounds_of_integers_are_exact(
    bounds: dict[str, float], right: list[int], wrong: list[int], guides: Guides
) -> None:
    texts = [*map(str, right), *map(str, wrong)]
    alone = {"type": "integer", **bounds}
    assert await accepted(guides, alone, texts) == [*map(str, right)]
    maybe = {"type": ["integer", "null"], **bounds}
    assert await accepted(guides, maybe, [*texts, "null"]) == [*map(str, right), "null"]
    within = {"type": "object", "properties": {"n": alone}, "required": ["n"]}
    told = [f'{{"n":{text}}}' for text in texts]
    assert await accepted(guides, within, told, "all") == told[: len(right)]


@pytest.mark.parametrize(
    ("bounds", "right", "wrong"),
    [
        ({"minimum": 0, "maximum": 1e300}, ["0", "0.5", "12"], ["-1"]),
        ({"minimum": 1e-25, "maximum": 0.5}, ["0.25", "0.5"], ["0", "0.51"]),
        ({"minimum": 1e-200, "maximum": 1}, ["0.25", "1"], ["0", "1.1"]),
        ({"minimum": BEYOND}, [str(BEYOND + 1)], [str(BEYOND - 1)]),
        ({"maximum": 0.30000000000000004}, ["0.3", "-5.25"], ["0.31", "0.30000000000000005"]),
        ({"exclusiveMinimum": 25e-1}, ["2.51", "3"], ["2.5", "2"]),
    ],
)
async def test_no_number_is_beyond_its_bounds(
    bounds: dict[str, float], right: list[str], wrong: list[str], guides: Guides
) -> None:
    schema = {"type": "number", **bounds}
    assert await accepted(guides, schema, [*right, *wrong]) == right


@pytest.mark.parametrize(
    "value",
    [BEYOND, -BEYOND, GREATEST, LEAST, 2**64, 10**30, 1e300, 0.30000000000000004, {"a": [LEAST]}],
)
async def test_constants_are_exact(value: Any, guides: Guides) -> None:
    text = json.dumps(value, separators=(",", ":"))
    texts = [text, "1", "9007199254740992", "9223372036854775808", "0.3"]
    assert await accepted(guides, {"const": value}, texts) == [text]
    assert await accepted(guides, {"enum": [value, 1]}, texts) == [text, "1"]
    named = {"anyOf": [{"$ref": "#/$defs/v"}, {"type": "null"}], "$defs": {"v": {"enum": [value]}}}
    assert await accepted(guides, named, [text, "null", "1"]) == [text, "null"]


async def test_what_stands_around_such_a_number_is_held_as_well(guides: Guides) -> None:
    number = {"type": "integer", "minimum": BEYOND, "maximum": BEYOND}
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "string", "maxLength": 1},
            "b": {"type": "array", "items": number, "minItems": 1, "maxItems": 2},
            "c": {"$ref": "#/$defs/c"},
            "d": {"type": "array", "items": number},
        },
        "required": ["b"],
        "$defs": {"c": {"type": "boolean"}},
    }
    right = [
        f'{{"b":[{BEYOND}]}}',
        f'{{"a":"x","b":[{BEYOND},{BEYOND}],"c":true}}',
        f'{{"b":[{BEYOND}],"c":false,"d":[]}}',
        f'{{"a":"","b":[{BEYOND}],"d":[{BEYOND},{BEYOND},{BEYOND}]}}',
    ]
    wrong = [
        "{}", '{"b":[]}', f'{{"b":[{BEYOND},{BEYOND},{BEYOND}]}}', f'{{"a":"xy","b":[{BEYOND}]}}',
        f'{{"b":[{BEYOND - 1}]}}', f'{{"b":[{BEYOND}],"c":0}}', f'{{"b":[{BEYOND}],}}',
    ]  # fmt: skip
    assert await accepted(guides, schema, [*right, *wrong]) == right
    for text in right:
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(40))
def test_an_expression_has_the_numbers_between_its_bounds_and_no_others(seed: int) -> None:
    draw = random.Random(seed)
    size = 10 ** draw.randrange(1, 5)
    low, high = sorted(draw.randrange(-size, size) for _ in range(2))
    least, most = draw.choice([(low, high), (low, None), (None, high), (None, None), (low, low)])
    expression = re.compile(integers_between(least, most))
    around = [*range(low - 30, low + 30), *range(high - 30, high + 30), *range(-12, 12)]
    for number in [*around, *(draw.randrange(-3 * size, 3 * size) for _ in range(300))]:
        is_between = (least is None or number >= least) and (most is None or number <= most)
        assert bool(expression.fullmatch(str(number))) == is_between, (least, most, number)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "enum": [BEYOND], "multipleOf": 3}, "beside multipleOf"),
        ({"allOf": [{"const": BEYOND}, {"title": "x", "minimum": 1}]}, "beside allOf"),
        ({"$ref": "#", "enum": [BEYOND]}, "in an enum beside"),
        ({"anyOf": [{"$ref": "#"}, {"const": BEYOND}]}, "refers to itself"),
        ({"anyOf": [{"$ref": "#/$defs/no"}, {"const": BEYOND}]}, '"#/$defs/no", which it does not'),
        ({"enum": [BEYOND], "type": "string"}, "nothing is left"),
        ({"properties": [], "required": [{}], "const": BEYOND}, "in an enum beside"),
        ({"type": "object", "properties": {"a": {"const": BEYOND}}, "required": 3}, "must be a li"),
        ({"type": {}, "const": BEYOND}, "nothing is left"),
        ({"type": "number", "maximum": -1e300}, "below -9223372036854774784"),
        ({"type": "integer", "exclusiveMinimum": 10**4300 - 1}, "above 9223372036854774784"),
        (
            {
                "items": {"type": "integer", "minimum": 10**4300 - 1},
                "type": "array",
                "enum": [BEYOND],
            },
            "in an enum beside items",
        ),
        (
            {"anyOf": [{"const": BEYOND}, {**NOT_A_DOUBLE, "exclusiveMinimum": 10**4300 - 1}]},
            "above 9223372036854774784",
        ),
        ({"const": float("nan")}, "not finite"),
        ({"enum": [1, {"a": float("-inf")}]}, "not finite"),
    ],
)
async def test_what_cannot_be_held_exactly_is_refused(
    schema: dict[str, Any], words: str, guides: Guides
) -> None:
    with pytest.raises(Unprocessable) as error:
        await guides.json_schema(schema)
    assert words in str(error.value)


async def test_a_bound_that_cannot_be_spelt_out_is_moved_inwards(guides: Guides) -> None:
    """Where parts are joined, answers are fewer, and right."""
    schema = {"allOf": [{"type": "integer", "minimum": BEYOND}, {"maximum": 10**16}]}
    texts = [str(BEYOND - 1), str(BEYOND + 1), str(10**16), str(10**16 + 1)]
    assert await accepted(guides, schema, texts) == texts[1:3]


async def test_references_that_multiply_are_bounded(guides: Guides) -> None:
    both = [{"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(40)]
    definitions = {f"{i}": part for i, part in enumerate(both)} | {"40": {"const": BEYOND}}
    with pytest.raises(Unprocessable, match="too many parts"):
        await guides.json_schema({"$ref": "#/$defs/0", "$defs": definitions})


def in_arrays(levels: int, part: dict[str, Any]) -> dict[str, Any]:
    return part if not levels else {"type": "array", "items": in_arrays(levels - 1, part)}


def in_objects(levels: int, part: dict[str, Any]) -> dict[str, Any]:
    if not levels:
        return part
    beside = {f"a{i}": {"type": "null"} for i in range(20)}
    return {"type": "object", "properties": {**beside, "z": in_objects(levels - 1, part)}}


@pytest.mark.parametrize(
    "schema",
    [
        in_arrays(14, NOT_A_DOUBLE),
        in_objects(3, NOT_A_DOUBLE),
        {"type": "object", "properties": {f"a{i}": NOT_A_DOUBLE for i in range(400)}},
    ],
)
def test_spelling_out_is_bounded(schema: dict[str, Any]) -> None:
    """Each level doubles what is within, or more: 40 of them would be a million million letters."""
    (rule,) = json_rules([prepared(schema)])
    assert len(rule) < GRAMMAR_BYTES_MAX
    assert f'"minimum": {BEYOND + 1}' in rule, "moved inwards instead"
    held = {"anyOf": [schema, {"const": BEYOND}]}
    with pytest.raises(Unprocessable, match="more than 65536 characters to spell out"):
        json_rules([prepared(held)])


def test_looking_for_numbers_is_bounded() -> None:
    """Every part that refers looks through all that it refers to."""
    refers = {"$ref": "#/$defs/wide"}
    wide = {"enum": [*range(2000), BEYOND]}
    schema = {"anyOf": [refers] * 100, "$defs": {"wide": wide}}
    with pytest.raises(Unprocessable, match="too many parts"):
        json_rules([prepared(schema)])


def test_a_large_schema_is_refused_before_it_is_walked_through() -> None:
    schema: dict[str, Any] = {"anyOf": [{}] * GRAMMAR_BYTES_MAX}
    with pytest.raises(Unprocessable, match="at most 65536 are read"):
        prepared(schema)


async def test_a_bound_of_many_digits_is_moved_beside_a_constant(guides: Guides) -> None:
    schema = {"anyOf": [{"const": BEYOND}, {**NOT_A_DOUBLE, "exclusiveMaximum": 10**4300 - 1}]}
    texts = [str(BEYOND - 1), str(BEYOND), "9" * 40, "9" * 41]
    assert await accepted(guides, schema, texts) == texts[1:3]


@pytest.mark.parametrize("count", [2.0, 2])
async def test_counts_may_be_written_as_other_numbers(count: float, guides: Guides) -> None:
    texts = ['"a"', '"ab"', '"abc"']
    schema = {"type": "string", "minLength": count, "maxLength": count}
    assert await accepted(guides, schema, texts) == ['"ab"']
