"""What may be asked of POST /v1/responses, and what is said of anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import BadRequest, Unprocessable
from edgeserve.gateway.api.body import parse_body
from edgeserve.gateway.api.responses.request import ResponsesRequest
from tests.gateway.test_openai_request import JSON

HELLO = {"role": "user", "content": "hello"}
CALL = {"type": "function_call", "call_id": "c1", "name": "sun", "arguments": '{"a": 1}'}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "warm"}
THOUGHT = {
    "type": "reasoning", "id": "rs_1", "summary": [],
    "content": [{"type": "reasoning_text", "text": "hm"}],
}  # fmt: skip
SUN = {"type": "function", "name": "sun", "parameters": {"type": "object"}, "strict": True}
SEA = {"type": "function", "name": "sea"}


def request(**fields: Any) -> ResponsesRequest:
    return parse_body(json.dumps({"input": "hello", **fields}).encode(), ResponsesRequest)


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


def told(*items: dict[str, Any], **fields: Any) -> list[Any]:
    return list(request(input=list(items), **fields).conversation().messages)


# -- what is wrong, how much, and what to do ---------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"input": 3}, "input is 3, but must be a string of at least one character, or a list"),
        ({"input": ""}, "but must be a string of at least one character"),
        ({"input": []}, "input is a list of 0, but must be"),
        ({"input": [3]}, "input[0] is 3, but input must be"),
        ({"input": [{}]}, 'input[0] is of type "item_reference"'),
        ({"input": [HELLO, {"role": "user"}]}, "input[1].content is missing"),
        ({"input": [{**HELLO, "role": "tool"}]}, 'input[0].role is "tool"'),
        ({"input": [{**HELLO, "contents": 1}]}, "input[0].contents is 1"),
        ({"input": [{**HELLO, "content": None}]}, "input[0].content is null"),
        (
            {"input": [{**HELLO, "content": [{"type": "input_image", "image_url": "x"}]}]},
            'input[0].content has a part of type "input_image", but the model reads text alone',
        ),
        (
            {"input": [CALL, {**OUTPUT, "output": [{"type": "input_file", "file_id": "x"}]}]},
            'input[1].output has a part of type "input_file"',
        ),
        (
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            'input[0] is of type "item_reference", which is not served: nothing is stored here',
        ),
        ({"input": [{"id": "msg_1"}]}, 'input[0] is of type "item_reference", which is not'),
        (
            {"input": [{"type": "web_search_call", "id": "x"}]},
            'input[0] is of type "web_search_call", which is not served: known are function_call',
        ),
        ({"input": [{"type": ["x"]}]}, 'input[0] is of type "", which is not served'),
        ({"input": [{**CALL, "arguments": "[1]"}]}, 'input[0].arguments is "[1]"'),
        ({"input": [{**CALL, "arguments": "{a"}]}, 'input[0].arguments is "{a"'),
        ({"input": [{**CALL, "name": "a b"}]}, 'input[0].name is "a b"'),
        (
            {"input": [HELLO, OUTPUT, CALL]},
            'input[1] is the output of call "c1", but no function_call before it has that call_id',
        ),
        ({"instructions": 3}, "instructions is 3, but must be a string"),
        ({"max_output_tokens": 0}, "max_output_tokens is 0, but must be a whole number from 1"),
        ({"max_output_token": 5}, "is not known (did you mean max_output_tokens?)"),
        ({"top_logprobs": 21}, "top_logprobs is 21, but must be a whole number from 0 to 20"),
        ({"include": ["reasoning"]}, 'include[0] is "reasoning", but include must be a list'),
        ({"reasoning": {"effort": "hard"}}, 'reasoning.effort is "hard"'),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort is"),
        ({"text": {"format": {"type": "xml"}}}, 'text.format.type is "xml"'),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.type is json_schema, but name or schema is missing: give both",
        ),
        (
            {"text": {"format": {"type": "json_object", "schema": {}}}},
            "text.format.type is json_object, but a name or a schema is given",
        ),
        ({"text": {"verbosity": "chatty"}}, 'text.verbosity is "chatty"'),
        ({"metadata": {"a": 1}}, "metadata.a is 1, but metadata must be an object of at most 16"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata is an object of 17"),
        ({"stream_options": {}}, "stream_options is given, but stream is not true"),
        ({"stream_options": {"include_usage": True}, "stream": True}, "stream_options.include_us"),
        ({"response_format": {}}, '"response_format" is not known'),
        ({"messages": []}, '"messages" is not known'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"store": True}, "store is true, which is not supported here, since no response is kept"),
        (
            {"previous_response_id": "resp_1"},
            "since no response is kept: send the whole conversation as input",
        ),
        ({"conversation": "conv_1"}, 'conversation is "conv_1", which is not supported here'),
        ({"background": True}, "background is true, which is not supported here"),
        ({"prompt": {"id": "p"}}, "prompt is an object of 1, which is not supported here"),
        (
            {"truncation": "auto"},
            'truncation is "auto", which is not supported here, since it is for',
        ),
    ],
)
def test_what_would_have_to_be_stored_is_refused_by_name(
    fields: dict[str, Any], words: str
) -> None:
    assert words in refusal(**fields)


@pytest.mark.parametrize(
    "kind",
    [
        "web_search", "web_search_preview", "file_search", "code_interpreter", "mcp", "local_shell",
        "shell", "apply_patch", "custom", "computer_use_preview", "image_generation", "namespace",
        "tool_search",
    ],
)  # fmt: skip
def test_tools_that_are_no_functions_are_refused_by_name(kind: str) -> None:
    tool = {"type": kind, "name": "x", "server_label": "y"}
    said = f'is of type "{kind}", but only functions can be called here: leave it out'
    assert refusal(tools=[SUN, tool]) == f"tools[1] {said}"
    assert refusal(tools=[SUN], tool_choice={"type": kind}) == f"tool_choice {said}"
    chosen = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": kind}]}
    assert refusal(tools=[SUN], tool_choice=chosen) == f"tool_choice.tools[0] {said}"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].name is missing"),
        (
            {"tools": [{"type": "function", "function": {"name": "sun"}}]},
            "tools[0].function is an object of 1",
        ),
        ({"tools": [SUN, SUN]}, "tools has 2 functions called sun"),
        ({"tools": [{**SUN, "parameters": {"type": "array"}}]}, "the parameters of sun are of"),
        ({"tool_choice": "required"}, 'tool_choice is "required", but there are no tools'),
        ({"tool_choice": "any"}, 'tool_choice is "any", but must be none, auto, required'),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name is missing"),
        (
            {"tools": [SUN], "tool_choice": {"type": "function", "name": "sea"}},
            'tool_choice names "sea", but known are "sun"',
        ),
        (
            {
                "tools": [SUN],
                "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [SEA]},
            },
            'tool_choice names "sea", but known are "sun"',
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls is 1, but must be true or false"),
    ],
)
def test_what_is_wrong_with_tools_is_said(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(**fields)


def test_all_that_is_wrong_is_said_at_once() -> None:
    said = refusal(store=True, tempratur=1, top_p=3)
    assert said.count(";") == 2
    assert "did you mean temperature?" in said


@pytest.mark.slow
@given(
    st.dictionaries(st.sampled_from(sorted([*ResponsesRequest.names(), "store", "x"])), JSON),
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_sent_is_taken_or_refused_in_bounded_words(fields: dict[str, Any]) -> None:
    assert len(refusal_or_nothing(fields)) < 6000


# -- what is taken -----------------------------------------------------------------------------


def test_what_asks_for_nothing_is_taken() -> None:
    accepted = {
        "store": False, "previous_response_id": None, "conversation": None, "background": False,
        "prompt": None, "truncation": "disabled", "user": "u", "safety_identifier": "s",
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex",
        "client_metadata": {"a": {"b": 1}}, "max_tool_calls": 3, "text": {"verbosity": "high"},
        "include": ["reasoning.encrypted_content"], "reasoning": {"summary": "auto"},
        "stream": True, "stream_options": {"include_obfuscation": True},
    }  # fmt: skip
    assert request(**accepted).conversation() == request().conversation()


def test_what_a_coding_agent_sends_is_taken() -> None:
    """In the shape of Codex, without its tools that are no functions."""
    function = {
        "type": "function", "name": "shell", "description": "Runs it.", "strict": False,
        "parameters": {
            "type": "object", "properties": {"command": {"type": "array"}},
            "required": ["command"], "additionalProperties": False,
        },
    }  # fmt: skip
    said = [{"type": "input_text", "text": "Mend it."}]
    call = {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "c1"}
    items = [
        {"type": "message", "role": "developer", "content": said},
        {"type": "message", "role": "user", "content": said},
        {"type": "reasoning", "summary": [], "encrypted_content": None},
        call,
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
    ]
    asked = request(
        model="demo", instructions="You are an agent.", input=items, tools=[function],
        tool_choice="auto", parallel_tool_calls=True, store=False, stream=True,
        reasoning={"effort": "medium", "summary": "auto"}, include=["reasoning.encrypted_content"],
        prompt_cache_key="k", text={"verbosity": "low"}, client_metadata={"session_id": "s"},
    )  # fmt: skip
    roles = [message["role"] for message in asked.conversation().messages]
    assert roles == ["system", "developer", "user", "assistant", "tool"]


def test_nulls_are_as_if_left_out() -> None:
    names = [name for name in ResponsesRequest.names() if name != "input"]
    nulls = dict.fromkeys([*names, *ResponsesRequest.NOT_SERVED])
    assert request(**nulls).conversation() == request().conversation()


def test_items_become_messages() -> None:
    assert told(
        {"type": "message", "role": "developer", "content": "Be kind."},
        HELLO,
        {
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {**CALL, "id": "fc_1", "status": "completed"},
        {**CALL, "call_id": "c2"},
        OUTPUT,
        {**OUTPUT, "call_id": "c2"},
        {"role": "assistant", "content": "Warm."},
        instructions="Be brief.",
    ) == [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        HELLO,
        {
            "role": "assistant", "content": "I look.",
            "tool_calls": [
                {"id": id_, "type": "function", "function": {"name": "sun", "arguments": {"a": 1}}}
                for id_ in ("c1", "c2")
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "warm"},
        {"role": "tool", "tool_call_id": "c2", "content": "warm"},
        {"role": "assistant", "content": "Warm."},
    ]  # fmt: skip


def test_calls_of_another_round_are_a_message_of_their_own() -> None:
    roles = [each["role"] for each in told(HELLO, CALL, OUTPUT, {**CALL, "call_id": "c2"})]
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_what_the_model_thought_goes_with_what_it_then_said() -> None:
    more = {**THOUGHT, "content": [{"type": "reasoning_text", "text": "yes"}]}
    secret = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}
    said = {"role": "assistant", "content": "Hi."}
    messages = told(HELLO, THOUGHT, more, said, HELLO, secret, CALL, OUTPUT, THOUGHT, CALL)
    assert [each.get("reasoning_content") for each in messages] == [
        None, "hm\nyes", None, None, None, "hm",
    ]  # fmt: skip
    assert [each["content"] for each in messages] == ["hello", "Hi.", "hello", "", "warm", ""]


def test_a_refusal_of_the_model_is_what_it_said() -> None:
    part = {"type": "refusal", "refusal": "No."}
    assert told({"role": "assistant", "content": [part]}) == [
        {"role": "assistant", "content": "No."}
    ]


# -- which functions may be called, and which must ---------------------------------------------


@pytest.mark.parametrize(
    ("choice", "callable_", "required", "is_single"),
    [
        (None, ["sun", "sea"], [], False),
        ("auto", ["sun", "sea"], [], False),
        ("none", [], [], False),
        ("required", ["sun", "sea"], ["sun", "sea"], False),
        ({"type": "function", "name": "sea"}, ["sun", "sea"], ["sea"], True),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "sea"}],
            },
            ["sea"],
            [],
            False,
        ),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "sea"}],
            },
            ["sea"],
            ["sea"],
            False,
        ),
    ],
)
def test_a_choice_says_what_may_and_must_be_called(
    choice: Any, callable_: list[str], required: list[str], is_single: bool
) -> None:
    tools = request(tools=[SUN, SEA], tool_choice=choice).conversation().tools
    assert [function.name for function in tools.functions] == callable_
    assert [function.name for function in tools.required] == required
    assert tools.is_single == is_single


def test_one_call_at_a_time() -> None:
    tools = request(tools=[SUN], parallel_tool_calls=False).conversation().tools
    assert tools.is_single


def test_a_function_is_told_to_the_template_as_in_a_chat() -> None:
    (function,) = request(tools=[{**SUN, "description": "Of a place."}]).told_tools().functions
    assert function.told() == {
        "type": "function",
        "function": {
            "name": "sun", "description": "Of a place.", "parameters": {"type": "object"},
        },
    }  # fmt: skip
