"""Calls in what a model said: found however it was cut, and nothing lost of what is none."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.gateway.text.tool_call import (
    BARE_JSON,
    BLANK_MAX,
    CALL_MAX,
    TAGGED,
    Call,
    CallFinder,
    Part,
    Syntax,
    syntax_of,
)

NAMES = ("f", "look_up")
F = Call("f", '{"a": 1}')
"""What `TAG` and `BARE` call."""
TAG = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
BARE = '{"name": "f", "parameters": {"a": 1}}'


def merged(parts: list[Part]) -> list[Part]:
    """Texts that follow one another are one."""
    merged: list[Part] = []
    for part in parts:
        if merged and isinstance(part, str) and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def found(syntax: Syntax, *texts: str, calls_max: int | None = None) -> list[Part]:
    finder = CallFinder(syntax, NAMES, calls_max=calls_max)
    parts = [part for text in texts for part in finder.push(text)]
    return merged(parts + finder.finish())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (TAG, [F]),
        (f"Well.\n{TAG}\n", ["Well.", F]),
        (f" {TAG}\n{TAG}{TAG}\n\n", [F, F, F]),
        (f"{TAG}\nSo it is. ", [F, "\nSo it is. "]),
        (f"{TAG}{' ' * 100}", [F, " " * 100]),
        (TAG.replace("\n", ""), [F]),
        (TAG.removesuffix("</tool_call>"), [F]),
        (TAG.removesuffix("call>"), [F]),
        (TAG.replace("arguments", "parameters"), [F]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', [F]),
        (
            '<tool_call>{"name": "f", "arguments": {"a": "}\\"</tool_call>"}}</tool_call>!',
            [Call("f", '{"a": "}\\"</tool_call>"}'), "!"],
        ),
        ('<tool_call>{"name":"f","arguments":{"a":"\\u20ac"}}', [Call("f", '{"a": "\u20ac"}')]),
    ],
)
def test_calls_between_tags_are_found(text: str, parts: list[Part]) -> None:
    assert found(TAGGED, text) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (BARE, [F]),
        (f"\n{BARE}; {BARE};\n{BARE} ;", [F, F, F]),
        (f"{BARE}{BARE}", [F, F]),
        (f"Let me see: {BARE}", ["Let me see:", F]),
        (f"one; {BARE}; two", ["one;", F, "; two"]),
        (f"f() {{ return; }} {BARE}", ["f() { return; }", F]),
        ('{"type": "function", "name": "f", "parameters": {"a": 1}}', [F]),
        (json.dumps(json.loads(BARE), indent=4), [F]),
        ('{"name": "f", "parameters": {"a": {"b": "{"}}}', [Call("f", '{"a": {"b": "{"}}')]),
    ],
)
def test_bare_calls_are_found(text: str, parts: list[Part]) -> None:
    assert found(BARE_JSON, text) == parts


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "the <tool_call> tag",
        "<tool_call>\n{",
        '<tool_call>{"name": "f", "arguments": {"a": 1}',
        '<tool_call>{"name": "f", "arguments": {"a": 1}} or so</tool_call>',
        '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
        '<tool_call>{"name": ["f"], "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "f"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1e999}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": ' + "[" * 10**5 + "}}</tool_call>",
        '<tool_call>[{"name": "f", "arguments": {}}]</tool_call>',
        '<tool_call>{"x": 1, "name": "f", "arguments": {}}</tool_call>',
        "</tool_call> \n",
        BARE,
        " \n ",
        "",
    ],
)
def test_what_only_looks_like_a_call_stays_text(text: str) -> None:
    assert "".join(map(str, found(TAGGED, text))) == text
    assert "".join(map(str, found(TAGGED, *text[:999], text[999:]))) == text


def test_after_what_was_none_a_call_is_found() -> None:
    for wrong in ("<tool_call>{x", '<tool_call>{"name": 3}', "<tool_call><tool_call>x"):
        assert found(TAGGED, wrong + TAG) == [wrong, F]
    assert found(BARE_JSON, '{"name": "g"}' + BARE) == ['{"name": "g"}', F]


def test_of_calls_that_are_too_many_the_rest_is_text() -> None:
    assert found(TAGGED, f"{TAG}\n{TAG}", calls_max=1) == [F, f"\n{TAG}"]
    assert found(BARE_JSON, f"{BARE}; {BARE}; {BARE}", calls_max=2) == [F, F, f"; {BARE}"]


@pytest.mark.parametrize(("syntax", "call"), [(BARE_JSON, BARE), (TAGGED, TAG)])
def test_a_call_without_measure_is_text(syntax: Syntax, call: str) -> None:
    """However it comes, and the next one is found."""
    for room, is_call in ((0, True), (1, False)):
        filling = "x" * (CALL_MAX - len(call.replace("1", '""')) + room)
        text = call.replace("1", f'"{filling}"')
        for texts in ([text, call], [text[:-3], text[-3:], call], [text[:9], text[9:] + call]):
            parts = found(syntax, *texts)
            assert [isinstance(part, Call) for part in parts] == [is_call, True]
            assert is_call or parts[0] == text


def test_text_is_given_out_as_soon_as_it_can_be_no_call() -> None:
    finder = CallFinder(BARE_JSON, NAMES)
    assert finder.push("if (x) ") == ["if (x)"]
    assert finder.push('{ "na') == []
    assert merged(finder.push("tion")) == [' { "nation']
    assert finder.push('"; {"name"') == ['";']
    assert merged(finder.push(': "g"}, y')) == [' {"name": "g"}, y']
    tagged = CallFinder(TAGGED, NAMES)
    assert tagged.push("a <") == ["a"]
    assert tagged.push("tool") == []
    assert merged(tagged.push("s>")) == [" <tools>"]


def test_a_call_is_given_out_with_its_last_character() -> None:
    for syntax, text in ((TAGGED, TAG), (BARE_JSON, BARE)):
        finder = CallFinder(syntax, NAMES)
        assert [part for letter in text[:-1] for part in finder.push(letter)] == []
        assert finder.push(text[-1]) == [F]
        assert finder.finish() == []


PIECES = [
    TAG, BARE, "<tool_call>", "</tool_call>", "<tool", "_call>", "{", "}", '"', "\\", "\\\\", ";",
    "; ", '{"name": "f", ', '"arguments": {', '"parameters": {}', '"name"', ": ", "look_up", " ",
    "\n", "x", "\u20ac", "\N{GRINNING FACE}", " " * (BLANK_MAX - 1), " " * (BLANK_MAX + 1),
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.sampled_from([TAGGED, BARE_JSON]), TEXTS, st.data(), st.sampled_from([None, 1, 2]))
def test_however_a_text_is_cut_the_same_is_found(
    syntax: Syntax, text: str, data: st.DataObject, calls_max: int | None
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    pieces = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
    whole = found(syntax, text, calls_max=calls_max)
    assert found(syntax, *pieces, calls_max=calls_max) == whole
    assert found(syntax, *text, calls_max=calls_max) == whole


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(st.sampled_from([TAGGED, BARE_JSON]), TEXTS)
def test_what_is_no_call_is_given_out_whole(syntax: Syntax, text: str) -> None:
    """A text comes back as it was but for calls, the blanks around them, and what joins them."""
    rest = text
    for part in found(syntax, text):
        said = part if isinstance(part, str) else '"name"'
        before, middle, rest = rest.partition(said)
        if isinstance(part, str):
            assert middle == part
            assert not before.strip("".join(set(TAG + BARE))), "only calls are left out"
    if not any(isinstance(part, Call) for part in found(syntax, text)):
        assert found(syntax, text) == ([text] if text else [])


@pytest.mark.slow
def test_a_long_answer_costs_no_more_a_token_than_a_short_one() -> None:
    """Whatever it is: an object without an end, blanks, braces, beginnings of calls."""
    for opening, piece in (
        ('<tool_call>{"name": "', "x{} "),
        ('<tool_call>{"name": "', "in a string " * 4),
        ("<tool_call>", " "),
        ("", "  \n "),
        (TAG, " \n " * 16),
        ("", '{"name": '),
        ("", "<tool_call>{"),
    ):
        finder = CallFinder(TAGGED, NAMES)
        finder.push(opening)
        start_s = time.thread_time()
        for _ in range(50_000):
            finder.push(piece)
        assert time.thread_time() - start_s < 5.0, (opening, piece)


@pytest.mark.parametrize(
    ("template", "syntax"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", None),
        ("{% if tools %}{{ tools | tojson }}{% endif %}", None),
        ("{% if tools %}[TOOL_CALLS]{{ tools | tojson }}{% endif %}", None),
        ("a <tool_call> in passing", None),
        ('{% if tools %}<tool_call>{"name": n, "parameters": p}{% endif %}', TAGGED),
        ('{% if tools %}{{ \'{"name": "\' ~ n ~ \'", "parameters": \' }}{% endif %}', BARE_JSON),
        ('{% if tools %}{{ "{\\"name\\": n, \\"parameters\\" : p}" }}{% endif %}', BARE_JSON),
    ],
)
def test_a_template_tells_how_its_model_calls(template: str, syntax: Syntax | None) -> None:
    assert syntax_of(template) == syntax
