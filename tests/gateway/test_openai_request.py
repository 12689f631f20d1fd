"""What may be asked of OpenAI's routes, and what is said of anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import BadRequest, Unprocessable
from edgeserve.frames.sampling import SEED_MAX
from edgeserve.gateway.api.body import parse_body
from edgeserve.gateway.api.openai.request import (
    CHOICES_MAX,
    ChatRequest,
    CompletionRequest,
    OpenAIRequest,
)
from edgeserve.gateway.api.openai.unread_fields import ACCEPTED, NOT_SERVED

HELLO = [{"role": "user", "content": "hello"}]
KINDS: list[tuple[type[OpenAIRequest], dict[str, Any]]] = [
    (CompletionRequest, {"prompt": "x"}),
    (ChatRequest, {"messages": HELLO}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def completion(**fields: Any) -> CompletionRequest:
    return parse_body(json.dumps({"prompt": "x", **fields}).encode(), CompletionRequest)


def chat(**fields: Any) -> ChatRequest:
    return parse_body(json.dumps({"messages": HELLO, **fields}).encode(), ChatRequest)


def refusal(kind: type[OpenAIRequest], **fields: Any) -> str:
    needed = dict(KINDS)[kind]
    with pytest.raises(Unprocessable) as error:
        parse_body(json.dumps({**needed, **fields}).encode(), kind)
    return str(error.value)


def refusal_or_nothing(body: bytes, kind: type[OpenAIRequest]) -> str:
    try:
        parse_body(body, kind)
    except BadRequest as error:
        return str(error)
    return ""


# -- what is wrong, how much, and what to do ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("model", 3, "3"),
        ("max_tokens", -1, "-1"),
        ("max_completion_tokens", 1.5, "1.5"),
        ("temperature", -0.1, "-0.1"),
        ("top_p", 0, "0"),
        ("n", 0, "0"),
        ("n", CHOICES_MAX + 1, "17"),
        ("stop", ["a"] * 33, "a list of 33"),
        ("seed", 2**64, "18446744073709551616"),
        ("stream", "yes", '"yes"'),
        ("stream_options", True, "true"),
        ("presence_penalty", 2.1, "2.1"),
        ("frequency_penalty", float("nan"), "NaN"),
        ("logit_bias", [], "a list of 0"),
        ("logit_bias", {str(i): 0 for i in range(2000)}, "an object of 2000"),
        ("timing", 1, "1"),
        ("top_k", -2, "-2"),
        ("ignore_eos", 0, "0"),
    ],
)
@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_a_field_out_of_bounds_is_told_by_name_value_and_bounds(
    name: str, value: Any, shown: str, kind: type[OpenAIRequest]
) -> None:
    allowed = kind.model_fields[name].description
    assert refusal(kind, **{name: value}) == f"{name} is {shown}, but must be {allowed}"


@pytest.mark.parametrize(
    ("kind", "fields", "where"),
    [
        (CompletionRequest, {"stop": [""]}, 'stop[0] is ""'),
        (CompletionRequest, {"stop": ["a", 3]}, "stop[1] is 3"),
        (CompletionRequest, {"logit_bias": {"5": 101}}, "logit_bias.5 is 101"),
        (CompletionRequest, {"logprobs": True}, "logprobs is true"),
        (CompletionRequest, {"response_format": {"type": "xml"}}, 'response_format.type is "xml"'),
        (
            ChatRequest,
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema is missing",
        ),
        (CompletionRequest, {"stream": True, "stream_options": {"x": 1}}, "stream_options.x is 1"),
        (ChatRequest, {"logprobs": 1}, "logprobs is 1"),
        (ChatRequest, {"messages": [*HELLO, 3]}, "messages[1] is 3"),
        (ChatRequest, {"messages": [{"role": "user"}]}, "messages[0].content is missing"),
        (
            ChatRequest,
            {"messages": [{"role": "function", "content": "x"}]},
            'messages[0].role is "function", which is not supported: send role tool',
        ),
        (ChatRequest, {"messages": [{**HELLO[0], "x": 1}]}, "messages[0].x is 1"),
        (ChatRequest, {"messages": [{"role": "user", "content": None}]}, "[0].content is null"),
    ],
)
def test_what_is_wrong_inside_of_a_field_is_told_with_its_place(
    kind: type[OpenAIRequest], fields: dict[str, Any], where: str
) -> None:
    assert where in refusal(kind, **fields)


@pytest.mark.parametrize(
    "prompt",
    ["", [], [""], [[]], ["a", 3], [1, "a"], [True], [-1], [1.0], 5, None, {}, ["x"] * 129],
)
def test_a_prompt_is_text_or_tokens_or_a_list_of_them(prompt: Any) -> None:
    assert refusal(CompletionRequest, prompt=prompt).startswith("prompt is ")


def test_a_prompt_of_half_a_surrogate_pair_is_refused() -> None:
    said = "prompt[1] holds half of a surrogate pair: send whole characters"
    assert refusal(CompletionRequest, prompt=["a", "a\ud800"]) == said


@pytest.mark.parametrize(
    ("prompt", "several"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
        (["a", [1]], ["a", [1]]),
    ],
)
def test_one_prompt_is_a_list_of_one(prompt: Any, several: Any) -> None:
    assert completion(prompt=prompt).prompt == several


def test_a_missing_prompt_is_told() -> None:
    with pytest.raises(Unprocessable, match=r"^prompt is missing, but must be a string of"):
        parse_body(b"{}", CompletionRequest)
    with pytest.raises(Unprocessable, match=r"^messages is missing, but must be a list of 1 to"):
        parse_body(b"{}", ChatRequest)


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"null"])
def test_a_body_that_is_no_object_is_told(body: bytes) -> None:
    with pytest.raises(Unprocessable, match="^the body is .*, but must be an object$"):
        parse_body(body, ChatRequest)


@pytest.mark.parametrize(("kind", "needed"), KINDS)
def test_what_is_not_served_is_refused_by_name_unless_it_asks_for_nothing(
    kind: type[OpenAIRequest], needed: dict[str, Any]
) -> None:
    refused = {name: NOT_SERVED[name] for name in NOT_SERVED if name not in kind.names()}
    assert len(refused) > 25
    for name, neutral in refused.items():
        for value in neutral:
            assert parse_body(json.dumps({**needed, name: value}).encode(), kind).count == 1
        words = f"{name} is 7.5, which is not supported here: leave it out"
        assert refusal(kind, **{name: 7.5}).startswith(words)
    functions = [{"name": "f"}]
    said = refusal(kind, functions=functions)
    assert said.endswith("not supported here: leave it out or give []")


def test_what_one_route_serves_is_not_refused_there() -> None:
    assert completion(echo=True).echo
    assert refusal(ChatRequest, echo=True).startswith("echo is true, which is not supported")


@pytest.mark.parametrize(("kind", "needed"), KINDS)
@pytest.mark.parametrize("value", [None, 7, "x", [1], {"a": {"b": None}}])
def test_what_changes_no_text_is_accepted_and_changes_nothing(
    kind: type[OpenAIRequest], needed: dict[str, Any], value: Any
) -> None:
    bare = parse_body(json.dumps(needed).encode(), kind)
    more = dict.fromkeys(ACCEPTED, value)
    assert parse_body(json.dumps({**needed, **more}).encode(), kind) == bare
    assert ACCEPTED.isdisjoint({*kind.names(), *NOT_SERVED})


def test_what_asks_for_nothing_is_taken() -> None:
    zeros = {"presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}}
    assert completion(**zeros).presence_penalty == 0
    assert chat(**zeros, user={"any": "thing"}).frequency_penalty == 0


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        (ChatRequest, {"max_tokens": 3, "max_completion_tokens": 4}, "give one of them"),
        (ChatRequest, {"stream_options": {"include_usage": True}}, "stream is not true"),
        (ChatRequest, {"top_logprobs": 1}, "logprobs is not true"),
        (
            ChatRequest,
            {"response_format": {"type": "json_schema"}},
            "but json_schema or value is missing",
        ),
        (
            ChatRequest,
            {"response_format": {"type": "text", "json_schema": {"name": "a", "schema": {}}}},
            "type is text, but json_schema is given",
        ),
        (ChatRequest, {"timing": True, "n": 2}, "timing is the receipt of one answer, but 2 are"),
        (CompletionRequest, {"timing": True, "prompt": ["a", "b"]}, "receipt of one answer"),
        (CompletionRequest, {"max_tokens": 0, "max_completion_tokens": 4}, "give one of them"),
        (CompletionRequest, {"prompt_logprobs": 0, "stream": True}, "with a whole answer only"),
        (CompletionRequest, {"prompt": ["a"] * 9, "n": 15}, "ask for 135 answers; at most 128"),
    ],
)
def test_fields_that_contradict_one_another_are_told(
    kind: type[OpenAIRequest], fields: dict[str, Any], said: str
) -> None:
    assert said in refusal(kind, **fields)


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ("max_token", "did you mean max_tokens?"),
        ("max_new_tokens", "did you mean max_"),
        ("details", "is not known ("),
        ("zzz", "is not known (known are "),
    ],
)
def test_a_name_that_nobody_knows_is_an_error_with_a_suggestion(field: str, hint: str) -> None:
    assert hint in refusal(CompletionRequest, **{field: 1})


def test_several_problems_are_told_at_once() -> None:
    said = refusal(ChatRequest, n=0, temprature=1, tools=[{}], stop=[""])
    for part in ("n is 0", "temprature", "tools[0].type is missing", 'stop[0] is ""'):
        assert part in said


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "x" * 10**5, "content": "x"}]},
        {"messages": [{"role": "user", "content": [{}] * 10**5}]},
        {"messages": [3] * 10**5},
        {"logit_bias": {"x" * 10**5: 1}},
        {"logit_bias": {f"x{i}": 1 for i in range(1000)}},
        {"x" * 10**6: 1},
        {"model": "x" * 10**6},
    ],
    ids=["role", "parts", "messages", "key", "keys", "name", "model"],
)
def test_the_error_is_short_however_long_the_body(fields: dict[str, Any]) -> None:
    assert len(refusal(ChatRequest, **fields)) < 10_000


# -- what it means -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "needed"), KINDS)
def test_null_is_as_good_as_nothing(kind: type[OpenAIRequest], needed: dict[str, Any]) -> None:
    nulls = dict.fromkeys([*kind.names(), *NOT_SERVED])
    bare = parse_body(json.dumps(needed).encode(), kind)
    assert parse_body(json.dumps({**nulls, **needed}).encode(), kind) == bare


def test_answers_are_sampled_unless_told_otherwise() -> None:
    assert completion().wishes(0).temperature == 1.0
    assert completion(temperature=0).wishes(0).temperature == 0
    assert completion(temperature=0.3).wishes(0).temperature == 0.3


def test_each_answer_has_a_seed_of_its_own() -> None:
    assert [completion(seed=5, n=3).wishes(i).seed for i in range(3)] == [5, 6, 7]
    assert completion(seed=SEED_MAX, n=2).wishes(1).seed == 0
    assert completion(n=2).wishes(1).seed is None


def test_other_tokens_than_the_chosen_ones_are_told_to_those_who_ask() -> None:
    assert completion(logprobs=5).wishes(0).top_n_tokens == 5
    assert completion(logprobs=0).wishes(0).top_n_tokens == 0
    assert chat(logprobs=True, top_logprobs=20).wishes(0).top_n_tokens == 20
    assert chat(logprobs=True).wishes(0).top_n_tokens == 0


def test_signed_seeds_are_seeds_and_minus_one_is_none() -> None:
    assert completion(seed=-1).wishes(0).seed is None
    assert completion(seed=-(2**63), n=2).wishes(1).seed == 2**63 + 1
    seeds = [completion(seed=-2, n=3).wishes(i).seed for i in range(3)]
    assert seeds == [SEED_MAX - 1, SEED_MAX, 0]


def test_an_empty_stop_string_asks_for_nothing() -> None:
    assert completion(stop="").stop is None
    assert completion(stop=[]).stop == []
    assert completion(stop=list("abcdefghij")).stop == list("abcdefghij")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, {}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        (
            {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
            {"reasoning_effort": "high"},
        ),
    ],
)
def test_variables_of_the_template_are_told_to_it(
    fields: dict[str, Any], told: dict[str, Any]
) -> None:
    assert chat(**fields).conversation().template_arguments == told


def test_variables_of_the_template_have_a_bound() -> None:
    said = refusal(ChatRequest, chat_template_kwargs={"a": "x" * 2**16})
    assert said.startswith("chat_template_kwargs is an object of 1, but must be an object of at")


def test_either_name_bounds_the_answer() -> None:
    for fields in (
        {"max_tokens": 7},
        {"max_completion_tokens": 7},
        {"max_tokens": 7, "max_completion_tokens": 7},
    ):
        assert chat(**fields).wishes(0).max_new_tokens == 7
    assert chat().wishes(0).max_new_tokens is None


def test_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    asked = chat(messages=[{"role": "user", "content": parts, "name": "Ann"}, *HELLO])
    assert asked.conversation().messages == [
        {"role": "user", "content": "a\nb", "name": "Ann"},
        *HELLO,
    ]


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({"type": "image_url", "image_url": {"url": "http://x"}}, 'has a part of type "image_url"'),
        ({"type": "input_audio", "input_audio": {}}, "but the model reads text alone"),
        ({"type": ["text"], "text": "a"}, "has a part of type a list of 1"),
        ({"text": "a"}, "has a part of type null"),
        ({"type": "text", "text": 3}, "has a part whose text is 3: send a string"),
        ({"type": "text"}, "has a part whose text is null"),
        ({"type": "refusal", "text": "no"}, "has a part whose refusal is null"),
        ({"type": "text", "text": "a", "x" * 10**5: 1}, "which is not known: leave it out"),
        (3, "has 3 among its parts"),
    ],
)
def test_other_parts_than_text_are_refused_by_name(part: Any, why: str) -> None:
    said = refusal(ChatRequest, messages=[{"role": "user", "content": [part]}])
    assert said.startswith("messages[0].content has ")
    assert why in said
    assert len(said) < 400


@pytest.mark.parametrize("role", ["user", "system", "assistant", "tool"])
def test_parts_of_text_are_read_whatever_they_are_called(role: str) -> None:
    parts = [
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "input_text", "text": "b"},
        {"type": "output_text", "text": "c", "annotations": []},
        {"type": "refusal", "refusal": "d"},
        "e",
    ]
    more = {"tool_call_id": "x"} if role == "tool" else {}
    asked = chat(messages=[{"role": role, "content": parts, **more}])
    assert asked.conversation().messages[0]["content"] == "a\nb\nc\nd\ne"


def test_a_message_without_parts_is_empty() -> None:
    assert chat(messages=[{"role": "user", "content": []}]).messages[0].content == ""


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": "a", "refusal": "no"}, "a"),
        ({"content": None, "reasoning_content": "hm"}, ""),
    ],
)
def test_an_assistant_may_have_said_nothing(message: dict[str, Any], content: str) -> None:
    asked = chat(messages=[*HELLO, {"role": "assistant", **message}, *HELLO])
    assert asked.conversation().messages[1]["content"] == content


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_what_an_assistant_thought_reaches_the_template(name: str) -> None:
    asked = chat(messages=[*HELLO, {"role": "assistant", "content": "a", name: "hm"}, *HELLO])
    assert asked.conversation().messages[1]["reasoning_content"] == "hm"
    empty = chat(messages=[{"role": "assistant", "content": "a", name: ""}])
    assert "reasoning_content" not in empty.conversation().messages[0]


def test_what_clients_add_to_a_message_is_not_read() -> None:
    added = {"annotations": [], "parsed": {"a": 1}, "cache_control": {"type": "ephemeral"},
             "provider_specific_fields": {"x": 1}, "reasoning_details": [], "thinking_blocks": [],
             "id": "m1", "prefix": False}  # fmt: skip
    asked = chat(messages=[{"role": "assistant", "content": "hi", **added}])
    assert asked.conversation().messages == [{"role": "assistant", "content": "hi"}]


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    nulls = {"refusal": None, "tool_calls": None, "function_call": None}
    asked = chat(messages=[*HELLO, {"role": "assistant", "content": "hi", **nulls}, *HELLO])
    assert asked.conversation().messages[1] == {"role": "assistant", "content": "hi"}


# -- whatever is sent --------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.dictionaries(
        st.sampled_from(sorted({*CompletionRequest.names(), *ChatRequest.names()})), JSON
    ),
)
def test_whatever_is_sent_is_taken_or_refused_in_words(
    kind: tuple[type[OpenAIRequest], dict[str, Any]], fields: dict[str, Any]
) -> None:
    body = json.dumps({**kind[1], **fields}).encode()
    message = refusal_or_nothing(body, kind[0])
    assert len(message) < 10_000


def test_the_schema_has_the_fields_and_is_complete_in_itself() -> None:
    for kind, needed in KINDS:
        schema = kind.schema_document()
        assert schema["properties"].keys() == set(kind.names())
        assert schema["required"] == list(needed)
        assert "$ref" not in json.dumps(schema)
