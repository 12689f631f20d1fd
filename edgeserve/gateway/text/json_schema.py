"""JSON schemas from clients, in the words that llguidance takes them in.

llguidance reads schemas stricter than the specification in some places, and holds every number as a
double. What leaves here says the same, or allows less where the same cannot be said, so that an
answer that follows it fits the schema that the client sent:

* a `format` that nobody holds answers to is an annotation, as the specification has it;
* a count such as `1.0` or `1e3` is a whole number;
* a bound that no double is equal to is moved inwards to the next one, and one that is beyond what
  llguidance counts to is moved to where it ends;
* objects of a `strict` schema have no properties but those that it names.

Schemas for which less is too little are for `exact_numbers.py`. What this module refuses to
know: tokens, and what llguidance makes of a schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, Literal, TypeGuard

from edgeserve.errors import Unprocessable

GRAMMAR_BYTES_MAX = 2**16
"""Half a second of llguidance's for the dearest of ordinary schemas: 2,000 properties."""
FORMATS = frozenset(
    "date-time time date duration email hostname ipv4 ipv6 uuid uri unknown".split()
)
"""Which llguidance holds a text to. It refuses all others."""
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum")
UPPER = ("maximum", "exclusiveMaximum")
INTEGER_MAX = 2**63 - 1
"""To which llguidance counts."""
DOUBLE_MAX = 2**63 - 1024
"""The largest double below it. Less than `-DOUBLE_MAX` llguidance cannot negate."""
DIGITS_MAX = 15
"""Of a bound that is no whole number: any decimal of as many is read as the double next to it."""
DECIMALS_MAX = 18
"""Of a bound. llguidance counts with them, too, and more are more than it counts to."""
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
LISTED = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SINGLE = (
    "items", "additionalProperties", "additionalItems", "not", "if", "then", "else", "contains",
    "propertyNames", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
"""Keywords whose values are schemas: by name, in a list, or one. Whatever else a schema holds is
data, which may look like a schema and is none.
"""

JOINING = {"allOf", "anyOf", "oneOf", "$ref"}
"""What a part of a schema says beside them joins what they say."""
NOT_JOINED = {
    "type", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "$comment", "$defs", "definitions", "$schema", "$id",
}  # fmt: skip

Schema = dict[str, Any]
Closed = Literal["none", "named", "all"]
"""Which objects have no properties but those that are named: those that name any, or all. One that
says itself what else it may have is left as it is.
"""


def prepared(schema: Mapping[str, Any], closed: Closed = "none") -> Schema:
    """A copy that llguidance takes, but for its numbers. Raises Unprocessable."""
    copy = _copied(schema)
    for part in schemas_within(copy):
        _drop_annotations(part)
        _write_counts_whole(part)
    if closed != "none":
        _close(copy, closed)
    return copy


def with_bounds_moved(schema: Mapping[str, Any]) -> Schema:
    """A copy whose bounds llguidance reads as they stand. Raises Unprocessable if there is none."""
    copy = _copied(schema)
    for part in schemas_within(copy):
        _move_bounds(part)
    return copy


def _copied(schema: Mapping[str, Any]) -> Schema:
    try:
        text = json.dumps(schema)
        refuse_large(text)  # before it is walked through
        copy: Schema = json.loads(text)
    except RecursionError:
        raise Unprocessable("the schema is nested too deeply: ask for less") from None
    return copy


def refuse_large(text: str) -> None:
    """Raises Unprocessable for a schema or a grammar of more than `GRAMMAR_BYTES_MAX`."""
    size = len(text.encode())
    if size > GRAMMAR_BYTES_MAX:
        raise Unprocessable(
            f"the grammar has {size} bytes; at most {GRAMMAR_BYTES_MAX} are read: ask for less"
        )


def schemas_within(schema: Schema) -> Iterator[Schema]:
    """`schema` and all schemas that it consists of."""
    pending: list[Any] = [schema]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending += _members(part)


def _members(part: Schema) -> Iterator[Any]:
    for key in NAMED:
        if isinstance(named := part.get(key), dict):
            yield from named.values()
    for key in LISTED:
        if isinstance(listed := part.get(key), list):
            yield from listed
    for key in SINGLE:
        yield part.get(key)


def _drop_annotations(part: Schema) -> None:
    form = part.get("format")
    if not isinstance(form, str) or form not in FORMATS:
        part.pop("format", None)


def _write_counts_whole(part: Schema) -> None:
    for key in COUNTS:
        count = part.get(key)
        if isinstance(count, float) and count.is_integer():
            part[key] = int(count)


# -- bounds of numbers


def is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_exact(number: float) -> bool:
    """Whether llguidance takes it for what it is."""
    return -DOUBLE_MAX <= number <= DOUBLE_MAX and _bound_below(number) == number


def is_integer_only(part: Schema) -> bool:
    """Whether the numbers that it allows are whole."""
    return "integer" in _kinds(part) and "number" not in _kinds(part)


def integer_bounds(part: Schema) -> tuple[int | None, int | None]:
    """The least and the greatest integer that its bounds allow; None is no bound."""
    least = [math.ceil(part[key]) for key in LOWER if _is_finite(part.get(key))]
    most = [math.floor(part[key]) for key in UPPER if _is_finite(part.get(key))]
    if _is_finite(edge := part.get("exclusiveMinimum")):
        least.append(math.floor(edge) + 1)
    if _is_finite(edge := part.get("exclusiveMaximum")):
        most.append(math.ceil(edge) - 1)
    return max(least, default=None), min(most, default=None)


def _is_finite(value: Any) -> TypeGuard[int | float]:
    return is_number(value) and (isinstance(value, int) or math.isfinite(value))


def _move_bounds(part: Schema) -> None:
    if is_integer_only(part):
        _set_integer_bounds(part)
        return
    for keys, moved in ((LOWER, _bound_above), (UPPER, _bound_below)):
        for key in keys:
            if _is_finite(edge := part.get(key)):
                part[key] = moved(edge)
            elif is_number(edge):
                del part[key]  # JSON's 1e999, which bounds nothing


def _set_integer_bounds(part: Schema) -> None:
    """As `minimum` and `maximum`: what an exclusive one excludes depends on what is next to it."""
    least, most = integer_bounds(part)
    for key in (*LOWER, *UPPER):
        if is_number(part.get(key)):
            del part[key]
    if least is not None:
        part["minimum"] = _bound_above(least)
    if most is not None:
        part["maximum"] = INTEGER_MAX if most >= INTEGER_MAX else _bound_below(most)


def _bound_above(edge: float) -> float:
    return -_bound_below(-edge)


def _bound_below(edge: float) -> float:
    """The greatest number that is not above `edge` and that llguidance reads as it stands: it takes
    whole numbers and decimals as doubles, and may miss one of more than `DIGITS_MAX` digits.
    """
    if edge < -DOUBLE_MAX:
        raise Unprocessable(
            f"the schema asks for numbers that are all below {-DOUBLE_MAX}, or above {DOUBLE_MAX}, "
            "and answers have none: move the bound"
        )
    within = min(edge, DOUBLE_MAX)
    double = float(within)
    if double > within:  # exact in Python, also where a double and a whole number are compared
        double = math.nextafter(double, -math.inf)
    if double.is_integer():
        return int(double)
    few = Context(prec=DIGITS_MAX, rounding=ROUND_FLOOR).plus(Decimal(repr(double)))
    return float(min(few, few.quantize(Decimal((0, (1,), -DECIMALS_MAX)), ROUND_FLOOR)))


# -- objects without other properties


def joins(part: Mapping[str, Any]) -> bool:
    """Whether it, or what it refers to, has to be matched together with something else."""
    every = part.get("allOf")
    several = isinstance(every, list) and len(every) > 1
    return several or (not JOINING.isdisjoint(part) and len(part.keys() - NOT_JOINED) > 1)


def _close(schema: Schema, closed: Closed) -> None:
    """Where parts are joined, closing one of them would forbid what the other asks for."""
    parts = [*schemas_within(schema)]
    if any(map(joins, parts)):
        return
    for part in parts:
        if "properties" in part or (closed == "all" and "object" in _kinds(part)):
            part.setdefault("additionalProperties", False)


def _kinds(part: Schema) -> list[Any]:
    kinds = part.get("type")
    return kinds if isinstance(kinds, list) else [kinds]
