"""What may be asked of POST /v1/messages, and what is said of anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import BadRequest, Unprocessable
from edgeserve.gateway.api.body import parse_body
from edgeserve.gateway.api.messages.request import KEEPS_ALL, CountRequest, MessagesRequest
from edgeserve.gateway.generate.conversation import JsonAnswer
from tests.gateway.messages import ASK, HELLO
from tests.gateway.test_openai_request import JSON

CALL = {"type": "tool_use", "id": "t1", "name": "sun", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "warm"}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "x"}
SUN = {"name": "sun", "input_schema": {"type": "object"}, "strict": True}
SEA = {"name": "sea", "input_schema": {}}
NAMED = {"type": "tool", "name": "sun"}


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def said(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def request(**fields: Any) -> MessagesRequest:
    return parse_body(json.dumps({**ASK, **fields}).encode(), MessagesRequest)


def refusal(**fields: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        request(**fields)
    return str(error.value)


def refusal_or_nothing(fields: dict[str, Any]) -> str:
    try:
        request(**fields)
    except BadRequest as error:
        return str(error)
    return ""


def told(*messages: dict[str, Any], **fields: Any) -> list[Any]:
    return list(request(messages=list(messages), **fields).conversation().messages)


# -- what is wrong, how much, and what to do ---------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": 3}, "messages is 3, but must be a list of 1 to 2048 messages"),
        ({"messages": []}, "messages is a list of 0, but must be"),
        ({"messages": [3]}, "messages[0] is 3, but messages must be"),
        ({"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        ({"messages": [{**HELLO, "role": "tool"}]}, 'messages[0].role is "tool"'),
        ({"messages": [{**HELLO, "contents": 1}]}, "messages[0].contents is 1"),
        ({"messages": [{**HELLO, "content": None}]}, "messages[0].content is null"),
        ({"messages": [user(3)]}, "messages[0].content[0] is 3"),
        ({"messages": [user({})]}, 'messages[0].content[0] is of type "", but'),
        ({"messages": [user({"type": ["x"]})]}, 'messages[0].content[0] is of type "", but'),
        ({"messages": [user({"type": "text"})]}, "messages[0].content[0].text is missing"),
        (
            {"messages": [user(text("a"), {"type": "image", "source": {}})]},
            'messages[0].content[1] is of type "image", but the model reads text alone',
        ),
        ({"messages": [user({"type": "document"})]}, 'is of type "document", but the model reads'),
        ({"messages": [user({"type": "search_result"})]}, 'is of type "search_result", but'),
        ({"messages": [said({"type": "server_tool_use"}), HELLO]}, '"server_tool_use", but'),
        (
            {"messages": [said(CALL), user({**RESULT, "content": [{"type": "image"}]})]},
            'messages[1].content[0].content has a part of type "image"',
        ),
        ({"messages": [said({**CALL, "input": "{}"}), HELLO]}, "messages[0].content[0].input is"),
        ({"messages": [said({**CALL, "name": "a b"}), HELLO]}, 'content[0].name is "a b"'),
        (
            {"messages": [HELLO, user(RESULT)]},
            'messages[1].content[0] is the result of "t1", but no tool_use before it has that id',
        ),
        (
            {"messages": [user(CALL), user(RESULT)]},
            "messages[0].content[0] is a tool_use, but its role is user, and not assistant",
        ),
        (
            {"messages": [said(CALL), said(RESULT), HELLO]},
            "messages[1].content[0] is a tool_result, but its role is assistant, and not user",
        ),
        (
            {"messages": [HELLO, said(text("Well, "))]},
            "messages ends with what the assistant said, which an answer cannot go on with here",
        ),
        ({"system": 3}, "system is 3, but must be a string, or a list of blocks of type text"),
        ({"system": [{"type": "image"}]}, 'system has a part of type "image"'),
        ({"max_tokens": 0}, "max_tokens is 0, but must be a whole number from 1"),
        ({"max_token": 5}, "is not known (did you mean max_tokens?)"),
        ({"stop_sequences": "x"}, 'stop_sequences is "x", but must be a list of at most 32'),
        ({"stop_sequences": [""]}, 'stop_sequences[0] is ""'),
        ({"stop": ["x"]}, '"stop" is not known'),
        ({"thinking": {"type": "on"}}, 'thinking.type is "on"'),
        ({"thinking": {"budget_tokens": 5}}, "thinking.type is missing"),
        ({"output_config": {"effort": "hard"}}, 'output_config.effort is "hard"'),
        ({"output_config": {"format": {"type": "xml"}}}, 'output_config.format.type is "xml"'),
        ({"output_format": {"type": "json_schema"}}, "output_format.schema is missing"),
        (
            {
                "output_format": {"type": "json_schema", "schema": {}},
                "output_config": {"format": {"type": "json_schema", "schema": {}}},
            },
            "output_format and output_config.format are both given",
        ),
        ({"temperature": -1}, "temperature is -1, but must be a number from 0"),
        ({"response_format": {}}, '"response_format" is not known'),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


def test_a_bound_has_to_be_given() -> None:
    with pytest.raises(Unprocessable, match="max_tokens is missing, but must be a whole number"):
        parse_body(json.dumps({"messages": [HELLO]}).encode(), MessagesRequest)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"container": "c"}, "which is not supported here, since nothing runs here but the model"),
        ({"mcp_servers": [{}]}, "mcp_servers is a list of 1, which is not supported here, since"),
        ({"betas": ["x"]}, "since they belong into the header anthropic-beta"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management is an object of 1, which is not supported here, since it is for",
        ),
        ({"speed": "fast"}, 'speed is "fast", which is not supported here'),
        ({"thread": {"id": "t"}}, "since no conversation is kept"),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


@pytest.mark.parametrize(
    "kind",
    [
        "bash_20250124", "text_editor_20250728", "computer_20250124", "memory_20250818",
        "web_search_20250305", "web_fetch_20250910", "code_execution_20250825",
        "tool_search_tool_bm25_20251119", "mcp_toolset", "browser_toolset_20260801",
    ],
)  # fmt: skip
def test_tools_that_anthropic_describes_are_refused_by_name(kind: str) -> None:
    assert refusal(tools=[SUN, {"type": kind, "name": "x", "max_uses": 3}]) == (
        f'tools[1] is of type "{kind}", but only tools with an input_schema of their own can be '
        "called here: describe it so, without a type, or leave it out"
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [{"name": "sun"}]}, "tools[0].input_schema is missing"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name is missing"),
        ({"tools": [{**SUN, "defer_loading": True}]}, "tools[0].defer_loading is true"),
        ({"tools": [{**SUN, "parameters": {}}]}, "tools[0].parameters is an object of 0"),
        ({"tools": [SUN, SUN]}, "tools has 2 functions called sun"),
        ({"tools": [{**SUN, "input_schema": {"type": "array"}}]}, "the parameters of sun are of"),
        ({"tool_choice": "auto"}, 'tool_choice is "auto", but must be an object such as'),
        ({"tool_choice": {"type": "any"}}, "tool_choice is of type any, but there are no tools"),
        ({"tool_choice": NAMED}, 'tool_choice names "sun", but there are no tools'),
        ({"tools": [SEA], "tool_choice": NAMED}, 'tool_choice names "sun", but known are "sea"'),
        ({"tools": [SEA], "tool_choice": {"type": "tool"}}, "tool_choice has a name if its type"),
        ({"tools": [SUN], "tool_choice": {**NAMED, "type": "any"}}, "tool_choice has a name if"),
    ],
)
def test_what_is_wrong_with_tools_is_said(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


def test_all_that_is_wrong_is_said_at_once() -> None:
    problems = refusal(container="c", tempratur=1, top_p=3)
    assert problems.count(";") == 2
    assert "did you mean temperature?" in problems


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(sorted([*MessagesRequest.names(), "container", "x"])), JSON),
)
@settings(max_examples=100, deadline=None)
def test_whatever_is_sent_is_taken_or_refused_in_bounded_words(fields: dict[str, Any]) -> None:
    assert len(refusal_or_nothing(fields)) < 6000


# -- what is taken -----------------------------------------------------------------------------


def test_what_asks_for_nothing_is_taken() -> None:
    accepted: dict[str, Any] = {
        "container": None, "context_management": KEEPS_ALL, "mcp_servers": [], "betas": [],
        "speed": "standard", "metadata": {"user_id": "u"}, "service_tier": "auto",
        "cache_control": {"type": "ephemeral"}, "inference_geo": "eu", "user_profile_id": "p",
        "thinking": {"type": "adaptive", "display": "omitted"}, "anthropic_version": "x",
    }  # fmt: skip
    assert request(**accepted).conversation() == request().conversation()


def test_nulls_are_as_if_left_out() -> None:
    names = [name for name in MessagesRequest.names() if name not in ASK]
    nulls = dict.fromkeys([*names, *MessagesRequest.NOT_SERVED])
    assert request(**nulls).conversation() == request().conversation()


def test_a_count_takes_what_makes_the_prompt() -> None:
    fields = {
        "messages": [HELLO], "system": "be kind", "tools": [SUN], "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 2000}, "output_config": {"effort": "low"},
        "cache_control": {"type": "ephemeral"}, "speed": "standard",
    }  # fmt: skip
    counted = parse_body(json.dumps(fields).encode(), CountRequest).conversation()
    asked = request(**fields).conversation()
    for part in ("messages", "tools", "template_arguments"):
        assert getattr(counted, part) == getattr(asked, part)


def test_blocks_become_messages() -> None:
    call = {"type": "function", "function": {"name": "sun", "arguments": {"a": 1}}}
    assert told(
        user(text("Is it"), {**text("warm?"), "cache_control": {"type": "ephemeral"}}),
        said(THOUGHT, {"type": "redacted_thinking", "data": "x"}, text("I look."), CALL,
             {**CALL, "id": "t2", "caller": {"type": "direct"}}),
        user(RESULT, {**RESULT, "tool_use_id": "t2", "content": [text("w"), text("x")]},
             text("So?")),
        said({**text("Warm."), "citations": None}),
        HELLO,
        system=[text("Be brief.")],
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it\nwarm?"},
        {
            "role": "assistant", "content": "I look.", "reasoning_content": "hm",
            "tool_calls": [{"id": "t1", **call}, {"id": "t2", **call}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "warm"},
        {"role": "tool", "tool_call_id": "t2", "content": "w\nx"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": "Warm."},
        HELLO,
    ]  # fmt: skip


def test_messages_of_one_role_in_a_row_are_one() -> None:
    more = {**THOUGHT, "thinking": "yes"}
    assert told(
        HELLO, HELLO,
        said(THOUGHT, text("a")), said(more, CALL), said({**CALL, "id": "t2"}, text("b")),
        user(RESULT), user({**RESULT, "tool_use_id": "t2"}), user(text("c")), HELLO,
    ) == [
        {"role": "user", "content": "hello\nhello"},
        {
            "role": "assistant", "content": "a\nb", "reasoning_content": "hm\nyes",
            "tool_calls": [
                {"id": id_, "type": "function", "function": {"name": "sun", "arguments": {"a": 1}}}
                for id_ in ("t1", "t2")
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "warm"},
        {"role": "tool", "tool_call_id": "t2", "content": "warm"},
        {"role": "user", "content": "c\nhello"},
    ]  # fmt: skip


def test_a_system_message_may_stand_among_the_others() -> None:
    word = {"role": "system", "content": "Be kind."}
    assert told(HELLO, word, system="Be brief.") == [
        {"role": "system", "content": "Be brief."}, HELLO, word,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("result", "read"),
    [
        ({"content": "too far", "is_error": True}, "Error: too far"),
        ({"content": "Error: too far", "is_error": True}, "Error: too far"),
        ({"content": None, "is_error": True}, "Error: "),
        ({"content": "Error: 3", "is_error": False}, "Error: 3"),
        ({"content": None}, ""),
        ({"content": []}, ""),
    ],
)
def test_a_result_that_is_an_error_says_so(result: dict[str, Any], read: str) -> None:
    messages = told(HELLO, said(CALL), user({**RESULT, **result}))
    assert messages[-1] == {"role": "tool", "tool_call_id": "t1", "content": read}


def test_the_line_about_billing_is_not_told_to_the_model() -> None:
    line = text("x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch=00000;")
    assert told(HELLO, system=[line, text("Be kind.")])[0]["content"] == "Be kind."
    assert told(HELLO, system=[line]) == [HELLO]
    assert told(HELLO, system=[text("Be kind."), line])[0]["content"].endswith("cch=00000;")


def test_a_form_closes_its_objects() -> None:
    form: dict[str, Any] = {"type": "json_schema", "schema": {"type": "object"}}
    held = JsonAnswer(schema=form["schema"], is_strict=True)
    assert request(output_config={"format": form}).conversation().held_to == held
    assert request(output_format=form).conversation().held_to == held


# -- which tools may be called, and which must -------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "callable_", "required", "is_single"),
    [
        (None, ["sun", "sea"], [], False),
        ({"type": "auto"}, ["sun", "sea"], [], False),
        ({"type": "auto", "disable_parallel_tool_use": True}, ["sun", "sea"], [], True),
        ({"type": "none"}, [], [], False),
        ({"type": "any"}, ["sun", "sea"], ["sun", "sea"], False),
        ({"type": "any", "disable_parallel_tool_use": True}, ["sun", "sea"], ["sun", "sea"], True),
        (NAMED, ["sun", "sea"], ["sun"], True),
    ],
)
def test_a_choice_says_what_may_and_must_be_called(
    choice: Any, callable_: list[str], required: list[str], is_single: bool
) -> None:
    tools = request(tools=[SUN, SEA], tool_choice=choice).conversation().tools
    assert [function.name for function in tools.functions] == callable_
    assert [function.name for function in tools.required] == required
    assert tools.is_single == is_single


def test_a_tool_is_told_to_the_template_as_in_a_chat() -> None:
    name = "n" * 128
    more = {
        "description": "Of a place.", "type": "custom", "cache_control": {"type": "ephemeral"},
        "input_examples": [{}], "eager_input_streaming": True, "allowed_callers": ["direct"],
        "defer_loading": False,
    }  # fmt: skip
    (function,) = request(tools=[{**SUN, "name": name, **more}]).told_tools().functions
    assert function.strict
    assert function.told() == {
        "type": "function",
        "function": {
            "name": name, "description": "Of a place.", "parameters": {"type": "object"},
        },
    }  # fmt: skip
