"""What was sent with a chat is in the prompt, or is refused by name; and nothing else is refused.

The templates are short ones, in the manners of published ones, and no vendor's.
"""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import Unprocessable
from edgeserve.gateway.text.chat_render import answer
from tests.gateway.test_openai_chat import AtHome
from tests.gateway.tool_templates import BARE_TEMPLATE, TAGGED_TEMPLATE

Message = dict[str, Any]
FIRST_SYSTEM = """{% if messages[0].role == 'system' %}[S]{{ messages[0].content }}
{% else %}[S]You are a helpful assistant.
{% endif %}
{% for m in messages %}
{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}[{{ m.role }}]{{ m.content }}
{% elif m.role == 'assistant' %}[A]{{ m.content }}{% for c in m.tool_calls %}
{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}

{% elif m.role == 'tool' %}[T]{{ m.content }}
{% endif %}{% endfor %}[A]"""
"""A default system message, and no word for what it does not know."""
NO_SYSTEM = """{% if messages[0].role == 'system' %}
{{ raise_exception('no system role') }}{% endif %}
{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}
<{{ 'model' if m.role == 'assistant' else m.role }}>{{ m.content | trim }}
{% endfor %}<model>"""
DROPS_SYSTEM = """{% for m in messages %}{% if m.role == 'user' %}<u>{{ m.content }}
{% elif m.role == 'assistant' %}<a>{{ m.content }}
{% endif %}{% endfor %}<a>"""
THINKS = """{% set ns = namespace(last=-1) %}{% for m in messages %}
{% if m.role == 'user' and not m.content.startswith('<result>') %}
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}<{{ m.role }}>
{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1].lstrip() %}
{% if loop.index0 > ns.last and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>
{% endif %}{{ said }}{% else %}{{ m.content }}{% endif %}

{% endfor %}<assistant>"""
"""Reasoning of earlier turns is taken away."""
SYSTEM_MOVES = """{% set system = messages | selectattr('role', 'equalto', 'system')
 | map(attribute='content') | join(' ') %}
{% for m in messages %}{% if m.role != 'system' %}[{{ m.role }}]
{{ system | trim ~ ' ' if loop.last }}{{ m.content | trim }}{% endif %}{% endfor %}"""
TURNS_NAMED = "{% for m in messages %}{{ m.name or m.role }}: {{ m.content }}\n{% endfor %}"
ESCAPES = "{{ messages | tojson }}"
SHOUTS = "{% for m in messages %}{{ m.role }}:{{ m.content | upper | e }};{% endfor %}"


def said(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def call(name: str, **arguments: Any) -> Message:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


HELLO = said("user", "hello")
TOOL = {"type": "function", "function": {"name": "f", "description": "does", "parameters": {}}}


def missing(template: str, *messages: Message, **variables: Any) -> str | None:
    given_ = {"messages": [*messages], "tools": None, "add_generation_prompt": True, **variables}
    document = answer({"template": template, "variables": json.loads(json.dumps(given_))})
    assert "error" not in document, document
    return document.get("missing")


# -- what is dropped ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "messages", "place"),
    [
        (FIRST_SYSTEM, [said("developer", "be brief"), HELLO], "messages[0].content"),
        (FIRST_SYSTEM, [HELLO, said("developer", "be brief")], "messages[1].content"),
        # Its text stands elsewhere in the prompt: in the default, in an equal message, in another.
        (FIRST_SYSTEM, [said("developer", "helpful"), HELLO], "messages[0].content"),
        (FIRST_SYSTEM, [said("developer", "hello"), HELLO], "messages[0].content"),
        (FIRST_SYSTEM, [HELLO, said("developer", "h")], "messages[1].content"),
        (DROPS_SYSTEM, [HELLO, said("tool", "hello")], "messages[1].content"),
        (DROPS_SYSTEM, [said("system", "be brief"), HELLO], "messages[0].content"),
        (DROPS_SYSTEM, [HELLO, said("assistant", "", tool_calls=[call("f")])],
         "messages[1].tool_calls[0].function.name"),
        ("{{ messages[-1].content }}", [HELLO, HELLO], "messages[0].content"),
        ("{{ messages[0].content }}", [HELLO, HELLO], "messages[1].content"),
        ("{{ messages[0].content[:8] }}", [said("user", "hello world")], "messages[0].content"),
        ("{{ messages[0].content.split('\n')[0] }}", [said("user", "a b\nc d")],
         "messages[0].content"),
        ("{{ messages[0].tool_calls[0].function.name }}",
         [said("assistant", "", tool_calls=[call("f", a=1)])],
         "messages[0].tool_calls[0].function.arguments"),
        ("{{ messages[0].tool_calls[0].function }}",
         [said("assistant", "", tool_calls=[call("f", a=1), call("f", a=1)])],
         "messages[0].tool_calls[1].function.name"),
        ("x", [said("user", "a"), said("user", "b")], "messages[0].content"),
    ],
)  # fmt: skip
def test_what_a_template_drops_is_found(template: str, messages: list[Message], place: str) -> None:
    assert missing(template, *messages) == place


@pytest.mark.parametrize(
    ("template", "place"),
    [
        ("{{ tools[0].function.name }}", "tools[0].function.description"),
        ("{{ tools[0].function.description }}", "tools[0].function.name"),
        ("{{ tools[0] }}", "tools[1].function.name"),
        ("{{ tools }}", None),
    ],
)
def test_a_tool_that_a_template_drops_is_found(template: str, place: str | None) -> None:
    template = "{{ messages[0].content }}" + template
    assert missing(template, HELLO, tools=[TOOL, TOOL]) == place


# -- what is not -------------------------------------------------------------------------------


CALLED = [
    HELLO,
    said("assistant", "", tool_calls=[call("f"), call("g", deep={"a": [1, "x"]}, n=2)]),
    said("tool", "3", name="f", tool_call_id="c1"),
    said("tool", "\u20ac", tool_call_id="c2"),
    said("assistant", "done"),
    HELLO,
]


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        (FIRST_SYSTEM, [said("system", "be brief"), HELLO, said("system", "be kind"), HELLO]),
        (FIRST_SYSTEM, [HELLO, HELLO, said("assistant", "hello"), HELLO]),
        (FIRST_SYSTEM, CALLED),
        (TAGGED_TEMPLATE, CALLED),
        (ESCAPES, CALLED),
        (NO_SYSTEM, [said("user", "  hi \n"), said("assistant", "\tx"), said("user", "\n y")]),
        (NO_SYSTEM, [said("user", "a"), said("assistant", ""), said("user", " \n ")]),
        (SYSTEM_MOVES, [said("system", " be brief "), HELLO, said("system", "or not"), HELLO]),
        (TURNS_NAMED, [said("user", "a", name="ada"), said("user", "b", name="bob"), HELLO]),
        (FIRST_SYSTEM, [said("user", "hello", name="ada"), said("assistant", "hi", name="bot")]),
        (THINKS, [HELLO, said("assistant", "<think>so</think>\n\nhi"), HELLO]),
        (THINKS, [HELLO, said("assistant", "<think>so</think>"), HELLO]),
        ("{{ messages[0].content.split('<think>')[0] }}", [said("assistant", "<think>a</think>")]),
        (THINKS, [HELLO, said("assistant", "hi", reasoning_content="so"), HELLO]),
        (THINKS, [HELLO, said("assistant", "hi", reasoning_content="so")]),
        (THINKS, [HELLO, said("user", "<result>x</result>"), HELLO]),
        (ESCAPES, [said("user", '<&>\u20ac"\\'), said("user", "\N{GRINNING FACE}")]),
        (SHOUTS, [said("user", "<hello & others>"), said("user", "\u00df")]),
        ("{{ messages[0].content | length }}", [said("user", "hello")]),
        ("{{ 'A' if messages[0].content == 'yes' else 'B' }}", [said("user", "yes")]),
        ("{{ messages | length }}", [said("user", ""), said("user", " ")]),
        ("{{ strftime_now('%s %S') }}{{ messages }}", [HELLO]),
    ],
)
def test_what_is_printed_trimmed_moved_or_escaped_is_there(
    template: str, messages: list[Message]
) -> None:
    assert missing(template, *messages) is None


def test_a_template_that_cannot_read_marked_texts_is_given_the_benefit_of_the_doubt() -> None:
    strict = (
        "{% for m in messages %}{% if m.content not in ['a', 'b'] %}{{ raise_exception('?') }}"
        "{% endif %}{% endfor %}x"
    )
    assert missing(strict, said("user", "a")) is None


WORDS = st.text("ab \n<>&\u20ac", max_size=6)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
TALKS = st.lists(st.builds(said, ROLES, WORDS), min_size=1, max_size=6)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(TALKS, st.data())
def test_of_any_conversation_exactly_what_is_dropped_is_found(
    talk: list[Message], data: st.DataObject
) -> None:
    everything = "{% for m in messages %}{{ m.role ~ ':' ~ m.content | trim ~ ';' }}{% endfor %}"
    assert missing(everything, *talk) is None
    dropped = data.draw(st.integers(0, len(talk) - 1))
    template = everything.replace("{{", "{% if loop.index0 != " + str(dropped) + " %}{{")
    template = template.replace("}}", "}}{% endif %}")
    place = f"messages[{dropped}].content" if talk[dropped]["content"].strip() else None
    assert missing(template, *talk) == place


# -- what is done about it ---------------------------------------------------------------------


async def test_a_developer_is_the_system_of_a_template_that_speaks_of_none() -> None:
    template = AtHome(FIRST_SYSTEM, {})
    for i, talk in enumerate(([said("developer", "be brief"), HELLO], [HELLO, HELLO])):
        system = [said("system", each["content"]) if i == 0 and each is talk[0] else each
                  for each in talk]  # fmt: skip
        assert await template.render(talk) == await template.render(system)
    assert "[S]be brief\n[user]hello" in await template.render(
        [said("developer", "be brief"), HELLO]
    )
    late = await template.render([HELLO, said("developer", "be brief"), HELLO])
    assert "[user]hello\n[system]be brief\n[user]hello" in late


async def test_a_template_that_speaks_of_developers_is_given_them() -> None:
    source = (
        "{% for m in messages %}{% if m.role in ['developer', 'user'] %}{{ m.role }}{{ m.content }}"
    )
    template = AtHome(source + "{% endif %}{% endfor %}", {})
    assert await template.render([said("developer", "x"), HELLO]) == "developerxuserhello"


@pytest.mark.parametrize(
    ("template", "messages", "words", "param"),
    [
        (DROPS_SYSTEM, [said("system", "x"), HELLO],
         "messages[0].content, of role system, is not in the prompt that the model's chat",
         "messages"),
        (DROPS_SYSTEM, [HELLO, said("tool", "3", tool_call_id="c")],
         "messages[1].content, of role tool, is not in", "messages"),
        (DROPS_SYSTEM, [HELLO, said("developer", "x")], "messages[1].content, of role system", "m"),
        (NO_SYSTEM, [said("system", "x"), HELLO], "refuses these messages: TemplateError: no sys",
         "messages"),
        (NO_SYSTEM, [said("developer", "x"), HELLO], "no system role", "messages"),
    ],
)  # fmt: skip
async def test_what_is_not_in_the_prompt_is_refused(
    template: str, messages: list[Message], words: str, param: str
) -> None:
    with pytest.raises(Unprocessable) as error:
        await AtHome(template, {}).render(messages)
    assert words in str(error.value)
    assert error.value.numbers["param"].startswith(param)


async def test_a_tool_that_is_not_in_the_prompt_is_refused() -> None:
    with pytest.raises(Unprocessable, match=r"^tools\[0\]\.function\.name is not in") as error:
        await AtHome(DROPS_SYSTEM, {}).render([HELLO], [TOOL])
    assert error.value.numbers == {"param": "tools"}


async def test_a_text_beside_a_call_is_said_before_it_where_a_template_prints_one_of_them() -> None:
    talk = [HELLO, said("assistant", "let me see", tool_calls=[call("f", a=1)])]
    text = await AtHome(BARE_TEMPLATE, {"bos_token": ""}).render(talk, [TOOL])
    head = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    spoken = head + "let me see<|eot_id|>" + head + '{"name": "f", "parameters": {"a": 1}}'
    assert spoken in text
    both = await AtHome(TAGGED_TEMPLATE, {}).render(talk, [TOOL])
    assert 'assistant\nlet me see<tool_call>\n{"name": "f"' in both


# -- what it costs -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_conversation_takes_two_renderings_and_no_more() -> None:
    talk = [said("user", f"question {i}") for i in range(2048)]
    begun_s = time.process_time()
    assert missing("{{ messages }}", *talk) is None
    assert time.process_time() - begun_s < 2
    dropped = "{{ messages[0].content }}"
    begun_s = time.process_time()
    assert missing(dropped, *talk) == "messages[1].content"
    assert time.process_time() - begun_s < 4
