"""Random JSON schemas, of all that answers are usually held to.

Strings, arrays and numbers are bounded, and recursion is left out, so that a model that chooses at
random comes to an end: a schema does not make it want to.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

DEPTH_MAX = 3
NAMES = [
    "name", "a", "x y", 'quo"ted', "back\\slash", "tab\t", "", "once upon", "</s>", "<0x41>",
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve", "\N{EURO SIGN}",
]  # fmt: skip
PATTERNS = ["^[a-z]{2,5}$", "^(cat|dog)s?$", "^[0-9]{3}-[0-9]{2}$", "^\\S{0,6}$", "^a+b?$"]


def random_schema(draw: random.Random) -> dict[str, Any]:
    schema = _schema(draw, 0)
    if draw.random() < 0.2:
        schema = {"$defs": {"it": schema}, "$ref": "#/$defs/it"}
    return schema


def _schema(draw: random.Random, depth: int) -> dict[str, Any]:
    simple: list[Callable[[random.Random], dict[str, Any]]] = [
        _string, _string, _integer, _number, _fixed, lambda _: {"type": "boolean"},
        lambda _: {"type": "null"},
    ]  # fmt: skip
    if depth == DEPTH_MAX or draw.random() < 0.4 * depth:
        return draw.choice(simple)(draw)
    made = draw.choice([_object, _object, _array, _any_of])
    return made(draw, depth + 1)


def _string(draw: random.Random) -> dict[str, Any]:
    kind = draw.randrange(3)
    if kind == 0:
        return {"type": "string", "pattern": draw.choice(PATTERNS), "maxLength": 12}
    if kind == 1:
        return {"type": "string", "format": draw.choice(["ipv4", "uuid"])}
    shortest = draw.randrange(4)
    return {"type": "string", "minLength": shortest, "maxLength": shortest + draw.randrange(9)}


def _integer(draw: random.Random) -> dict[str, Any]:
    least = draw.randrange(-2000, 2000)
    bounds = {"minimum": least, "maximum": least + draw.randrange(3000)}
    return {"type": "integer", **bounds, **({"multipleOf": 1} if draw.random() < 0.2 else {})}


def _number(draw: random.Random) -> dict[str, Any]:
    least = round(draw.uniform(-50, 50), 2)
    return {"type": "number", "exclusiveMinimum": least, "maximum": least + draw.randrange(1, 99)}


def _fixed(draw: random.Random) -> dict[str, Any]:
    values = ["yes", "", 'a "b"', 7, -1.5, True, None, [1, "x"], {"k": None}]
    if draw.random() < 0.3:
        return {"const": draw.choice(values)}
    return {"enum": draw.sample(values, draw.randint(1, 5))}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(NAMES, draw.randrange(5))
    return {
        "type": "object",
        "properties": {name: _schema(draw, depth) for name in names},
        "required": [name for name in names if draw.random() < 0.7],
        "additionalProperties": False,
    }


def _array(draw: random.Random, depth: int) -> dict[str, Any]:
    fewest = draw.randrange(3)
    if fewest and draw.random() < 0.3:
        first = [_schema(draw, depth) for _ in range(fewest)]
        return {"type": "array", "prefixItems": first, "items": False, "minItems": fewest}
    most = fewest + draw.randrange(3)
    return {"type": "array", "items": _schema(draw, depth), "minItems": fewest, "maxItems": most}


def _any_of(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(draw, depth) for _ in range(draw.randint(2, 3))]}
