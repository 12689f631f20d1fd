"""Finds the calls of functions in what a model said, whole or as it comes. Pure: text in, text and
calls out.

A model calls a function by writing it down, in the syntax that its chat template taught it. What
was given out as text cannot be taken back, so a call is held back until its last character is
there; whatever only looks like one is text again, all of it. Each character is looked at once,
however the text was cut, and the cuts make no difference. Refuses to know requests and tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgeserve.gateway.text.stop import begun_length

CALL_MAX = 2**17  # characters, as of a grammar; what is held is copied with every piece
BLANK_MAX = 64  # pretty JSON has 8; bounded, since it is looked at again with every piece
BLANK = re.compile(rf"\s{{0,{BLANK_MAX}}}")
SIGNIFICANT = re.compile(r'["\\{}]')  # where an object ends depends on these
FIRST_KEYS = tuple(f'"{key}"' for key in ("name", "arguments", "parameters", "type", "id"))
"""With which a call's object begins. Any other one is text at once, and not when it ends."""
ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """How calls are written: an object with a name and its arguments, between two tags or bare."""

    opening: str
    closing: str
    arguments: str
    """What the object calls them. Where calls are read, either word of `ARGUMENTS` will do."""
    joint: str
    """Goes between two calls."""
    sign: re.Pattern[str]
    """A chat template that holds it teaches this syntax."""

    @property
    def begins_with(self) -> str:
        return self.opening or "{"


TAGGED = Syntax(
    opening="<tool_call>",
    closing="</tool_call>",
    arguments="arguments",
    joint="\n",
    sign=re.compile("<tool_call>"),
)
"""<tool_call>{"name": "f", "arguments": {}}</tool_call>"""
BARE_JSON = Syntax(
    opening="",
    closing="",
    arguments="parameters",
    joint="; ",
    sign=re.compile(r'"parameters\\?"\s*:'),  # quoted in a string of the template, or not
)
"""{"name": "f", "parameters": {}}; the token that may go before it is special, and not in a text"""
SYNTAXES = (TAGGED, BARE_JSON)
"""The first whose sign is there counts: a template with tags may speak of parameters, too."""

TAGS = tuple(tag for each in SYNTAXES for tag in (each.opening, each.closing) if tag)
"""A vocabulary may count them as special, but where they are hidden no call can be found."""


def syntax_of(template: str) -> Syntax | None:
    """None: the template has no tools, or has calls written in a way that is not known here."""
    if not re.search(r"\btools\b", template):
        return None
    return next((each for each in SYNTAXES if each.sign.search(template)), None)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    """An object, as JSON."""


Part = str | Call


class CallFinder:
    """Gives out what a text and its calls are, in order. Texts that follow one another are one.

    Only functions of `names` are called; of `calls_max` calls the last is the last, and what comes
    after it is text. White space before a call is no text, nor what stands between two, nor white
    space that ends the answer after one.
    """

    def __init__(
        self, syntax: Syntax, names: Iterable[str], *, calls_max: int | None = None
    ) -> None:
        self._syntax = syntax
        self._names = frozenset(names)
        self._calls_left = calls_max
        self._held = ""
        self._candidate: _Candidate | None = None
        """Of a call, at the beginning of what is held."""
        self._seams = _Seams(syntax.joint.strip())

    def push(self, text: str) -> list[Part]:
        self._held += text
        return list(self._seams.between(self._parts(is_all=False)))

    def finish(self) -> list[Part]:
        """What was held back, when no more text comes."""
        return [*self._seams.between(self._parts(is_all=True)), *self._seams.last()]

    def _parts(self, *, is_all: bool) -> Iterator[Part]:
        while self._held:
            if self._candidate is None and self._calls_left != 0:
                yield self._take(self._text_length(is_all=is_all))
                if not self._held.startswith(self._syntax.begins_with):
                    return
                self._candidate = _Candidate(self._syntax)
            elif self._candidate is None:
                yield self._take(len(self._held))
            else:
                length = self._candidate.length(self._held, is_all=is_all)
                if length is None:
                    return
                yield self._call_or_text(self._candidate, self._take(length))

    def _text_length(self, *, is_all: bool) -> int:
        """How much is text before there may be a call."""
        begins_with = self._syntax.begins_with
        start = self._held.find(begins_with)
        if start >= 0:
            return start
        return len(self._held) - (0 if is_all else begun_length(self._held, begins_with))

    def _call_or_text(self, candidate: _Candidate, text: str) -> Part:
        self._candidate = None
        call = None if candidate.body is None else _call(text[candidate.body], self._names)
        if call is None:
            return text
        if self._calls_left is not None:
            self._calls_left -= 1
        return call

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


class _Candidate:
    """What begins as a call does.

    <tool_call> {"name": "f", "arguments": {}} </tool_call>
                |---------- body ------------|
    """

    def __init__(self, syntax: Syntax) -> None:
        self.body: slice | None = None
        """Of a call that is complete."""
        self._syntax = syntax
        self._object = _ObjectEnd()

    def length(self, text: str, *, is_all: bool) -> int | None:
        """How much of `text` is decided about: it is the call if there is a body, or else none.
        None: more has to come.
        """
        length = self._decided(text, is_all=is_all)
        if (len(text) if length is None else length) <= CALL_MAX:
            return length
        self.body = None
        return CALL_MAX

    def _decided(self, text: str, *, is_all: bool) -> int | None:
        start = _after_blank(text, len(self._syntax.opening))
        if start < len(text) and text[start] != "{":
            return start
        if not _may_begin(text, start):
            return start + 1
        end = self._object.find(text, start)
        length = None if end is None else self._closed(text, start, end, is_all=is_all)
        return len(text) if length is None and is_all else length

    def _closed(self, text: str, start: int, end: int, *, is_all: bool) -> int | None:
        """Where nothing more comes, the closing tag may be missing: some models end there."""
        closing = self._syntax.closing
        after = _after_blank(text, end) if closing else end
        found = text[after : after + len(closing)]
        if not closing.startswith(found):
            return end
        if found != closing and not is_all:
            return None
        self.body = slice(start, end)
        return after + len(found)


class _ObjectEnd:
    """Where the object ends whose brace opens at `start`. Each character is looked at once."""

    def __init__(self) -> None:
        self._end: int | None = None
        self._seen = 0
        self._depth = 0
        self._in_string = False

    def find(self, text: str, start: int) -> int | None:
        at = max(self._seen, start)
        while self._end is None and (found := SIGNIFICANT.search(text, at)):
            at = found.end()
            if found[0] == "\\":
                at += self._in_string  # maybe beyond the text so far: what comes is taken as it is
            elif self._depth_after(found[0]) == 0:
                self._end = at
        self._seen = max(at, len(text))
        return self._end

    def _depth_after(self, letter: str) -> int:
        if letter == '"':
            self._in_string = not self._in_string
        elif not self._in_string:
            self._depth += (letter == "{") - (letter == "}")
        return self._depth


class _Seams:
    """Takes away what only stands around calls."""

    def __init__(self, joint: str) -> None:
        self._joint = joint
        self._held = ""
        self._follows_call = False
        """Whether nothing but what is held came after a call."""

    def between(self, parts: Iterable[Part]) -> Iterator[Part]:
        for part in parts:
            if isinstance(part, Call):
                self._held = ""
                self._follows_call = True
                yield part
            elif text := self._text(part):
                yield text

    def last(self) -> list[str]:
        return [self._held] if self._held and not self._follows_call else []

    def _text(self, more: str) -> str:
        text = self._held + more
        is_seam = len(text) <= BLANK_MAX and text.strip() in ("", self._joint)
        self._follows_call = self._follows_call and is_seam
        blank = 0 if self._follows_call else len(text.rstrip())
        start = max(blank, len(text) - BLANK_MAX)
        self._held = text[start:]
        return text[:start]


def _after_blank(text: str, start: int) -> int:
    found = BLANK.match(text, start)
    return start if found is None else found.end()


def _may_begin(text: str, start: int) -> bool:
    """Whether the object that begins at `start`, or will, can be a call's by its first key."""
    after = _after_blank(text, start + 1)
    return any(text[after : after + len(key)] == key[: len(text) - after] for key in FIRST_KEYS)


def _call(body: str, names: frozenset[str]) -> Call | None:
    try:
        document = json.loads(body)
        arguments = next((document[each] for each in ARGUMENTS if each in document), None)
        if document.get("name") not in names or not isinstance(arguments, dict):
            return None
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair cannot be sent: a ValueError, as is NaN above
    except (ValueError, TypeError, RecursionError):
        return None
    return Call(document["name"], text)
