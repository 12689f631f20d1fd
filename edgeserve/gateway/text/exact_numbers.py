"""Schemas whose numbers llguidance would not hold exactly, spelt out in its dialect of Lark.

llguidance keeps numbers as doubles: of 9007199254740993, an ordinary id, it makes ...992, and what
is beyond 64 bits it does not count to at all (a constant of -2**63 ends the process). Here such a
number is a text of digits, and a range of them an expression. So that it can stand within objects
and arrays, those around it are spelt out, too; whatever holds no such number stays llguidance's.

Not covered, and refused by name: such numbers beside `multipleOf`, or in parts that are joined,
that refer to themselves, or that follow patterns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import ge, gt, le, lt
from typing import Any

from edgeserve.errors import Unprocessable
from edgeserve.gateway.text.json_schema import (
    GRAMMAR_BYTES_MAX,
    INTEGER_MAX,
    LOWER,
    NOT_JOINED,
    UPPER,
    Schema,
    integer_bounds,
    is_exact,
    is_integer_only,
    is_number,
    schemas_within,
    with_bounds_moved,
)
from edgeserve.gateway.text.json_text import shown

DIGITS_MAX = 40
"""Of a bound; 64 bits have 20. Beyond, it is moved to where llguidance ends."""
PARTS_MAX = 4096
"""That are spelt out: 12 references that each name the next one twice make as many."""
LOOKS_MAX = 100_000
"""At parts and values of enums: those below a part are looked at again for each part above them."""
TEXT_MAX = GRAMMAR_BYTES_MAX
"""Characters of one part. An object names what is optional once for each property
before it, and an array its items twice, so that what is within grows with each level around it."""
TEXTS_MAX = 2**20
"""Of all parts together, each with what is in it."""
KINDS = {"integer": int, "string": str, "boolean": bool, "null": type(None), "object": dict,
         "array": list}  # fmt: skip
WITHIN_BOUND = {"minimum": ge, "exclusiveMinimum": gt, "maximum": le, "exclusiveMaximum": lt}
ANNOTATIONS = NOT_JOINED - {"type"}
SHARED = ("$defs", "definitions")


def expression(schema: Schema, spacing: Mapping[str, Any]) -> str:
    """What stands for a `prepared` schema in a grammar. `spacing` is llguidance's. Raises
    Unprocessable if it has a constant that can be held neither way.
    """
    parts = [*schemas_within(schema)]
    constants = not all(map(is_exact, _numbers(map(_values_of, parts))))
    if constants or any(map(_has_inexact_bound, parts)):
        try:
            return _Spelling(schema, spacing).of(schema, ())
        except RecursionError:
            raise Unprocessable("the schema is nested too deeply: ask for less") from None
        except Unprocessable:
            if constants:
                raise
    return f"%json {json.dumps({**with_bounds_moved(schema), **spacing})}"


def integers_between(least: int | None, most: int | None) -> str:
    """A regular expression of the whole numbers from `least` to `most`, both included, as JSON
    writes them; None is no bound.
    """
    parts = []
    if least is None or least < 0:
        upper = -1 if most is None else min(most, -1)
        parts += [f"-({each})" for each in _naturals(-upper, None if least is None else -least)]
    if most is None or most >= 0:
        parts += _naturals(max(least or 0, 0), most)
    return "|".join(parts)


def _naturals(least: int, most: int | None) -> Iterator[str]:
    """One expression for each number of digits."""
    digits = len(str(least))
    while most is None or digits <= len(str(most)):
        low = str(max(least, 10 ** (digits - 1) if digits > 1 else 0))
        if most is None and digits > len(str(least)):
            yield f"[1-9][0-9]{{{digits - 1},}}"
            return
        last = most is not None and digits == len(str(most))
        yield _between(low, str(most) if last else "9" * digits)
        digits += 1


def _between(low: str, high: str) -> str:
    """Of the same number of digits."""
    if low == high:
        return low
    more = len(low) - 1
    if low[0] == high[0]:
        return f"{low[0]}({_between(low[1:], high[1:])})"
    if set(low[1:]) <= {"0"} and set(high[1:]) <= {"9"}:
        return f"[{low[0]}-{high[0]}]" + (f"[0-9]{{{more}}}" if more else "")
    parts = [f"{low[0]}({_between(low[1:], '9' * more)})"]
    if int(low[0]) + 1 < int(high[0]):
        parts.append(f"[{int(low[0]) + 1}-{int(high[0]) - 1}][0-9]{{{more}}}")
    return "|".join([*parts, f"{high[0]}({_between('0' * more, high[1:])})"])


class _Spelling:
    def __init__(self, root: Schema, spacing: Mapping[str, Any]) -> None:
        self._root = root
        self._spacing = spacing
        options = spacing["x-guidance"]
        self._separators = (options.get("item_separator", ","), options.get("key_separator", ":"))
        self._comma = json.dumps(self._separators[0])
        self._parts_left = PARTS_MAX
        self._looks_left = LOOKS_MAX
        self._texts_left = TEXTS_MAX

    def of(self, part: Any, within: tuple[str, ...]) -> str:
        """`within` are the references that led here."""
        self._parts_left -= 1
        if self._parts_left < 0:
            raise _beyond("in a schema of too many parts")
        text = self._of(part, within)
        self._texts_left -= len(text)
        if len(text) > TEXT_MAX or self._texts_left < 0:
            raise _too_long()
        return text

    def _of(self, part: Any, within: tuple[str, ...]) -> str:
        if not self._needs_spelling(part):
            return self._left_to_llguidance(part)
        said = {key: value for key, value in part.items() if key not in ANNOTATIONS}
        if "enum" in said or "const" in said:
            return self._values(said)
        if said.keys() == {"$ref"}:
            return self._referred(said["$ref"], within)
        for key in ("anyOf", "allOf"):
            if said.keys() == {key} and (key == "anyOf" or len(_list(said, key)) == 1):
                return _either(self.of(each, within) for each in _list(said, key))
        if isinstance(said.get("type"), list):
            return _either(self.of({**said, "type": each}, within) for each in said["type"])
        return self._typed(said, within)

    def _typed(self, said: Schema, within: tuple[str, ...]) -> str:
        kind = said.get("type")
        if kind == "integer" and said.keys() <= {"type", *LOWER, *UPPER}:
            return f"/{integers_between(*_few_digits(*integer_bounds(said)))}/"
        if kind == "object" or (kind is None and "properties" in said):
            return self._object(said, within)
        if kind == "array" and said.keys() <= {"type", "items", "minItems", "maxItems"}:
            return self._array(said, within)
        raise _beyond(f"beside {', '.join(sorted(said))}")

    def _values(self, said: Schema) -> str:
        known = {"enum", "const", "type", *LOWER, *UPPER}
        if not said.keys() <= known:
            raise _beyond(f"in an enum beside {', '.join(sorted(said.keys() - known))}")
        return _either(self._literal(each) for each in _values_of(said) if _fits(each, said))

    def _literal(self, value: Any) -> str:
        try:
            text = json.dumps(
                value, separators=self._separators, ensure_ascii=False, allow_nan=False
            )
        except ValueError:
            raise _beyond("in a constant that is not finite") from None
        return json.dumps(text)

    def _object(self, said: Schema, within: tuple[str, ...]) -> str:
        """Of the properties that it names: others may come, and need not."""
        known = {"type", "properties", "required", "additionalProperties"}
        if not said.keys() <= known:
            raise _beyond(f"in an object beside {', '.join(sorted(said.keys() - known))}")
        required, named = _list(said, "required"), _object_of(said, "properties")
        other = said.get("additionalProperties", True)
        others = {str(name): other for name in required if str(name) not in named}
        pairs = [
            (self._pair(name, value, within), name in required)
            for name, value in {**named, **others}.items()
            if value is not False or name in required
        ]
        return f'"{{" {self._listed(pairs)} "}}"'

    def _pair(self, name: str, value: Any, within: tuple[str, ...]) -> str:
        key = json.dumps(name, ensure_ascii=False) + self._separators[1]
        return f"{json.dumps(key)} {self.of(value, within)}"

    def _listed(self, pairs: Sequence[tuple[str, bool]]) -> str:
        """In order, with commas between those that are there."""
        starts: list[str] = []
        for i, (first, is_required) in enumerate(pairs):
            rest = (
                f"{self._comma} {pair}" if needed else f"({self._comma} {pair})?"
                for pair, needed in pairs[i + 1 :]
            )
            starts.append(" ".join([first, *rest]))
            if sum(map(len, starts)) > TEXT_MAX:
                raise _too_long()
            if is_required:
                return _either(starts)
        return f"({_either(starts)})?" if starts else '""'

    def _array(self, said: Schema, within: tuple[str, ...]) -> str:
        fewest, most = said.get("minItems", 0), said.get("maxItems")
        if not isinstance(fewest, int) or not isinstance(most, int | None):
            raise _beyond("in an array whose length is no number")
        if most == 0:
            return '"[]"'
        item = self.of(said.get("items", True), within)
        more = f"{{{max(fewest - 1, 0)},{'' if most is None else most - 1}}}"
        items = f"{item} ({self._comma} {item}){more}"
        return f'"[" {items} "]"' if fewest else f'"[" ({items})? "]"'

    def _referred(self, reference: Any, within: tuple[str, ...]) -> str:
        if reference in within:
            raise _beyond("in a part that refers to itself")
        return self.of(self._found(reference), (*within, reference))

    def _found(self, reference: Any) -> Any:
        found: Any = self._root
        start, *names = str(reference).split("/")
        for name in names:
            key = name.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        if start != "#" or found is None:
            raise Unprocessable(f"the schema refers to {shown(reference)}, which it does not have")
        return found

    def _left_to_llguidance(self, part: Any) -> str:
        if not isinstance(part, dict | bool) or part is False:
            raise _beyond("beside a part that nothing fits")
        shared = {key: self._root[key] for key in SHARED if key in self._root}
        whole = {**shared, **({} if part is True else part)}
        return f"%json {json.dumps({**with_bounds_moved(whole), **self._spacing})}"

    def _needs_spelling(self, part: Any) -> bool:
        """Whether it, or what it refers to, has such a number."""
        pending, seen = [part], set()
        while pending:
            schema = pending.pop()
            own = schema.items() if isinstance(schema, dict) else ()
            for each in schemas_within({key: value for key, value in own if key not in SHARED}):
                values = _values_of(each)
                self._looks_left -= 1 + len(values)
                if self._looks_left < 0:
                    raise _beyond("in a schema of too many parts")
                if _has_inexact_bound(each) or not all(map(is_exact, _numbers(values))):
                    return True
                reference = each.get("$ref")
                if isinstance(reference, str) and reference not in seen:
                    seen.add(reference)
                    pending.append(self._found(reference))
        return False


def _values_of(part: Schema) -> list[Any]:
    """Those that it lists, if it does."""
    if "const" not in part:
        return _list(part, "enum")
    const = part["const"]
    return [const] if const in _list(part, "enum") or "enum" not in part else []


def _has_inexact_bound(part: Schema) -> bool:
    """Whether moving it would keep integers out. The greatest of 64 bits llguidance has."""
    if not is_integer_only(part):
        return False
    least, most = integer_bounds(part)
    bounds = [least, None if most is None or most >= INTEGER_MAX else most]
    return any(
        bound is not None and abs(bound) < 10**DIGITS_MAX and not is_exact(bound)
        for bound in bounds
    )


def _few_digits(least: int | None, most: int | None) -> tuple[int | None, int | None]:
    """The same bounds, moved inwards to `DIGITS_MAX` digits."""
    end = 10**DIGITS_MAX - 1
    if (least is not None and least > end) or (most is not None and most < -end):
        raise _beyond(f"beside a bound of more than {DIGITS_MAX} digits")
    return (
        None if least is None else max(least, -end),
        None if most is None else min(most, end),
    )


def _numbers(values: Iterable[Any]) -> Iterator[int | float]:
    pending = [*values]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
        elif is_number(value):
            yield value


def _fits(value: Any, said: Schema) -> bool:
    kinds = said.get("type", [*KINDS, "number"])
    if not any(_is_of(kind, value) for kind in (kinds if isinstance(kinds, list) else [kinds])):
        return False
    return not is_number(value) or all(
        within(value, said[key]) for key, within in WITHIN_BOUND.items() if is_number(said.get(key))
    )


def _is_of(kind: Any, value: Any) -> bool:
    if is_number(value):
        return kind == "number" or (
            kind == "integer" and (isinstance(value, int) or value.is_integer())
        )
    return isinstance(kind, str) and isinstance(value, KINDS.get(kind, ()))


def _list(said: Schema, key: str) -> list[Any]:
    value = said.get(key, [])
    if not isinstance(value, list):
        raise Unprocessable(f"{key} of the schema is {shown(value)}, but must be a list")
    return value


def _object_of(said: Schema, key: str) -> Schema:
    value = said.get(key, {})
    if not isinstance(value, dict):
        raise Unprocessable(f"{key} of the schema is {shown(value)}, but must be an object")
    return value


def _either(parts: Iterable[str]) -> str:
    listed = [*parts]
    if not listed:
        raise Unprocessable("the schema lists what may be, and nothing is left of it: change it")
    return f"({' | '.join(listed)})"


def _too_long() -> Unprocessable:
    return _beyond(f"in a schema that takes more than {TEXT_MAX} characters to spell out")


def _beyond(where: str) -> Unprocessable:
    return Unprocessable(
        f"the schema has a number that no double is equal to, {where}: it cannot be followed "
        "there; ask for a text of digits instead"
    )
