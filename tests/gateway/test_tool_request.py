"""What a chat may say of tools, what templates are told, and answers that have to be calls."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edgeserve.errors import Unprocessable
from edgeserve.gateway.api.body import parse_body
from edgeserve.gateway.api.openai.request import ChatRequest
from edgeserve.gateway.api.tool_request import TOOLS_KB_MAX, TOOLS_MAX
from edgeserve.gateway.generate.conversation import JsonAnswer
from edgeserve.gateway.generate.tools import NO_PARAMETERS, ToolUse
from edgeserve.gateway.text import chat_render
from edgeserve.gateway.text.grammar import Guides, TokenGuide
from edgeserve.gateway.text.tokenizer import Detokenizer, Tokenizer, open_tokenizer, read_tokenizer
from edgeserve.gateway.text.tool_call import (
    BARE_JSON,
    SYNTAXES,
    TAGGED,
    Call,
    Part,
    Syntax,
    syntax_of,
)
from tests.gateway.tool_templates import BARE_TEMPLATE, TAGGED_TEMPLATE

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", '\u00e9 "}</tool_call>']},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "warm": {"$ref": "#/$defs/flag"},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


TOOLS = [tool("weather", description="Of a city.", parameters=WEATHER, strict=True), tool("now")]


def calling(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def call(name: str, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "call_1", "type": "function", "function": function, **more}


def said(content: Any, *calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


TALK = [
    {"role": "system", "content": "Be kind."},
    *HELLO,
    said(None, call("weather", '{"days": 1, "city": "<\u20ac>", "x": null}')),
    {"role": "tool", "tool_call_id": "call_1", "content": "warm & dry"},
    {"role": "assistant", "content": "It is warm."},
    *HELLO,
]


def chat(**fields: Any) -> ChatRequest:
    return parse_body(json.dumps({"messages": HELLO, **fields}).encode(), ChatRequest)


def refusal(**fields: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        chat(**fields)
    return str(error.value)


# -- what is wrong, how much, and what to do ---------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": 3}, "tools is 3, but must be a list of at most 128 functions"),
        ({"tools": [{}]}, "tools[0].type is missing"),
        ({"tools": [tool("")]}, 'tools[0].function.name is ""'),
        ({"tools": [tool("a b")]}, 'tools[0].function.name is "a b"'),
        ({"tools": [tool("f", parameters=[])]}, "tools[0].function.parameters is a list of 0"),
        ({"tools": [tool("f", stict=True)]}, "tools[0].function.stict is true"),
        ({"tools": [{"type": "retrieval"}]}, 'tools[0].type is "retrieval"'),
        ({"tools": [tool(f"f{i}") for i in range(TOOLS_MAX + 1)]}, "tools is a list of 129"),
        ({"tools": [tool("f", description="x" * 2**18)]}, f"of {TOOLS_KB_MAX} KiB together"),
        ({"tools": [tool("f", parameters={"x": float("nan")})]}, "tools is a list of 1, but"),
        ({"tools": [tool("f", parameters={"x": "\ud800"})]}, "function.parameters.x holds half of"),
        ({"tools": [tool("f"), tool("g"), tool("f")]}, "tools has 2 functions called f"),
        (
            {"tools": [tool("f", parameters={"type": "string"})]},
            'the parameters of f are of type "string", but arguments have names',
        ),
        ({"tool_choice": "required"}, 'tool_choice is "required", but there are no tools'),
        ({"tool_choice": "any", "tools": TOOLS}, 'tool_choice is "any", but must be none, auto'),
        ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice is an object of 1"),
        ({"tool_choice": calling("then"), "tools": TOOLS}, 'but known are "weather, now"'),
        ({"tool_choice": calling("x" * 10**6), "tools": TOOLS}, 'but known are "weather, now"'),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls is 1, but must be true or false"),
        (
            {"tools": TOOLS, "guided_regex": "[0-9]"},
            "the answer is to match an expression or a choice, but tools may be called instead",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0] is of role tool, but has"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_call_id": "y"}]},
            "messages[0] is of role user, but has a tool_call_id",
        ),
        (
            {"messages": [said("", call("f", "{}"), role="user")]},
            "messages[0] is of role user, but has tool_calls",
        ),
        ({"messages": [said(None, {"id": "x"})]}, "messages[0].tool_calls[0].type is missing"),
        (
            {"messages": [said(None, call("f", "{a"))]},
            'messages[0].tool_calls[0].function.arguments is "{a"',
        ),
        ({"messages": [said(None, call("f", "[]"))]}, 'function.arguments is "[]"'),
        ({"messages": [said(None, call("f", "[" * 10**5))]}, "function.arguments is "),
        ({"messages": [said(None, call("f", '{"x": "\\ud800"}'))]}, "function.arguments is "),
        ({"messages": [said(None, call("f", '{"x": NaN}'))]}, "function.arguments is "),
    ],
)
def test_what_is_wrong_with_tools_is_told(fields: dict[str, Any], words: str) -> None:
    message = refusal(**fields)
    assert words in message
    assert len(message) < 2000


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none"},
        {"tool_choice": "auto", "tools": []},
        {"parallel_tool_calls": False},
        {"tools": TOOLS, "tool_choice": "none", "response_format": {"type": "json_object"}},
    ],
)
def test_what_asks_for_no_call_is_taken(fields: dict[str, Any]) -> None:
    assert not chat(**fields).callable


def test_earlier_calls_alone_speak_of_tools() -> None:
    assert chat(messages=TALK).conversation().speaks_of_tools
    assert chat(tools=TOOLS).conversation().speaks_of_tools
    assert not chat(tools=TOOLS, tool_choice="none").conversation().speaks_of_tools


# -- what templates are told -------------------------------------------------------------------


def use_of(syntax: Syntax, **fields: Any) -> ToolUse:
    return ToolUse(tools=chat(**{"tools": TOOLS, **fields}).told_tools(), syntax=syntax)


def test_a_template_is_told_arguments_as_objects_and_no_more_than_there_is() -> None:
    told = chat(messages=TALK).conversation().messages
    arguments = {"days": 1, "city": "<\u20ac>", "x": None}
    assert told[:2] == TALK[:2]
    assert told[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": arguments}
    assert told[2]["content"] == "", "some templates add to it"
    assert told[3:] == TALK[3:]
    assert use_of(TAGGED).told() == [
        tool("weather", description="Of a city.", parameters=WEATHER),
        tool("now", parameters=NO_PARAMETERS),
    ]


def test_arguments_are_an_object_whatever_the_parameters_leave_out() -> None:
    (told,) = use_of(TAGGED, tools=[tool("f", parameters={"minProperties": 1})]).told()
    assert told["function"]["parameters"] == {"type": "object", "minProperties": 1}


def test_calls_come_back_as_they_were_given() -> None:
    """With what clients add to them, and arguments that a model left empty."""
    sent = said(None, call("now", "", index=0), refusal=None, annotations=None, audio=None)
    told = chat(messages=[sent, *TALK[3:4]]).conversation().messages
    assert told[0]["tool_calls"] == [
        {**call("now", ""), "function": {"name": "now", "arguments": {}}}
    ]


@pytest.mark.slow
@pytest.mark.parametrize("template", [TAGGED_TEMPLATE, BARE_TEMPLATE], ids=["tagged", "bare"])
@pytest.mark.parametrize("with_tools", [True, False])
def test_a_prompt_with_tools_is_what_transformers_makes_of_it(
    template: str, with_tools: bool, byte_level_folder: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(byte_level_folder / "tokenizer.json"), bos_token="<s>"
    )
    asked = chat(messages=TALK, tools=TOOLS)
    tools = ToolUse(tools=asked.told_tools(), syntax=TAGGED).told() if with_tools else None
    variables = {"messages": asked.conversation().messages, "tools": tools, "bos_token": "<s>"}
    question = {"template": template, "variables": {**variables, "add_generation_prompt": True}}
    text = chat_render.answer(question)["text"]
    assert text == reference.apply_chat_template(
        asked.conversation().messages,
        tools=tools,
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )
    assert ("Of a city." in text) == with_tools
    assert '{"days": 1, "city": "<\u20ac>", "x": null}}' in text


def test_the_templates_of_these_tests_are_told_apart() -> None:
    assert syntax_of(TAGGED_TEMPLATE) == TAGGED
    assert syntax_of(BARE_TEMPLATE) == BARE_JSON


# -- tags in a vocabulary ----------------------------------------------------------------------


def test_tags_are_text_whatever_the_vocabulary_says(tmp_path: Path, llama_folder: Path) -> None:
    """`<|python_tag|>`, with which some models begin a call, stays hidden, and out of the way."""
    document = json.loads((llama_folder / "tokenizer.json").read_text())
    size = len(document["model"]["vocab"])
    for i, text in enumerate(("<tool_call>", "</tool_call>", "<|python_tag|>")):
        added = {**document["added_tokens"][0], "id": size + i, "content": text, "special": True}
        document["added_tokens"].append(added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = read_tokenizer(tmp_path)
    detokenizer = Detokenizer(tokenizer, [300])
    ids = [size + 2, size, *tokenizer.encode_bare("x"), size + 1]
    assert "".join(map(detokenizer.push, ids)).replace(" ", "") == "<tool_call>x</tool_call>"
    assert [tokenizer.is_special(i) for i in range(size, size + 3)] == [False, False, True]


# -- answers that have to be calls -------------------------------------------------------------


def spoken(guide: TokenGuide, tokenizer: Tokenizer, seed: int, *, tokens_max: int = 2000) -> str:
    """What a model might say that has no idea, but keeps to the grammar."""
    chance = random.Random(seed)
    said: list[int] = []
    while len(said) < tokens_max:
        bits = int.from_bytes(guide.mask(), "little")
        token = chance.choice([i for i in range(tokenizer.vocab_size) if bits >> i & 1])
        if token == 2:
            return tokenizer.decode(said)
        said.append(token)
        guide.advance(token)
    raise AssertionError("it does not end")


async def forced(use: ToolUse, seeds: range, answer: str | None = None) -> list[list[Part]]:
    tokenizer = open_tokenizer(None, 300)
    grammar = use.grammar(answer)
    assert grammar is not None
    guide = await Guides(tokenizer, frozenset({2}), 300).lark(grammar)
    texts = [spoken(guide.copy(), tokenizer, seed) for seed in seeds]
    finders = [use.finder() for _ in texts]
    return [f.push(text) + f.finish() for f, text in zip(finders, texts, strict=True)]


def check_calls(parts: list[Part]) -> list[str]:
    """Their names; each fits its schema, and there is nothing else."""
    schemas = {"weather": WEATHER, "now": NO_PARAMETERS}
    calls = [part for part in parts if isinstance(part, Call)]
    assert calls == parts
    for each in calls:
        jsonschema.validate(json.loads(each.arguments), schemas[each.name])
    return [each.name for each in calls]


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES, ids=["tagged", "bare"])
async def test_what_has_to_be_a_call_is_one_or_several(syntax: Syntax) -> None:
    answers = await forced(use_of(syntax, tool_choice="required"), range(20))
    names = [check_calls(parts) for parts in answers]
    assert {name for each in names for name in each} == {"weather", "now"}
    assert max(map(len, names)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES, ids=["tagged", "bare"])
async def test_beside_tools_an_answer_in_json_is_that_or_a_call(syntax: Syntax) -> None:
    rule = JsonAnswer(schema=WEATHER).rule()
    answers = await forced(use_of(syntax), range(20), rule)
    texts = ["".join(map(str, parts)) for parts in answers if not isinstance(parts[0], Call)]
    assert 0 < len(texts) < len(answers)
    for text in texts:
        jsonschema.validate(json.loads(text), WEATHER)
    for parts in answers:
        if isinstance(parts[0], Call):
            check_calls(parts)
    for parts in await forced(use_of(syntax, tool_choice="required"), range(5), rule):
        check_calls(parts)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES, ids=["tagged", "bare"])
@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"weather", "now"}),
        ({"tool_choice": calling("weather")}, {"weather"}),
        ({"tool_choice": calling("now")}, {"now"}),
    ],
)
async def test_what_has_to_be_one_call_is_one(
    fields: dict[str, Any], allowed: set[str], syntax: Syntax
) -> None:
    answers = await forced(use_of(syntax, **fields), range(10))
    names = [check_calls(parts) for parts in answers]
    assert {len(each) for each in names} == {1}
    assert {each[0] for each in names} == allowed


async def test_a_call_is_written_as_templates_write_those_that_were(tmp_path: Path) -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"const": 1}, "b": {"const": [1, {"c": 2}]}},
    }
    tools = [
        tool("f", parameters={**parameters, "required": ["a", "b"], "additionalProperties": False})
    ]
    use = use_of(TAGGED, tools=tools, tool_choice="required", parallel_tool_calls=False)
    tokenizer = open_tokenizer(None, 300)
    guide = await Guides(tokenizer, frozenset({2}), 300).lark(use.grammar() or "")
    function = {"name": "f", "arguments": {"a": 1, "b": [1, {"c": 2}]}}
    template = "{{ messages | tojson }}"
    question = {"template": template, "variables": {"messages": function}}
    written = chat_render.answer(question)["text"]
    assert spoken(guide, tokenizer, 0) == f"<tool_call>\n{written}\n</tool_call>"


@pytest.mark.parametrize(
    ("each", "words"),
    [
        ({"type": "integer", "multipleOf": 29_989}, "2 multipleOf"),
        ({"patternProperties": {f"^{i}$": {} for i in range(40)}}, "80 patternProperties"),
        ({"enum": ["x" * 40_000]}, "at most 65536 are read"),
    ],
)
def test_arguments_ask_for_no_more_work_than_other_schemas(
    each: dict[str, Any], words: str
) -> None:
    """Of all functions together: their grammar is one."""
    tools = [tool(name, parameters={"properties": {"x": each}}) for name in "fg"]
    use = use_of(TAGGED, tools=tools, tool_choice="required")
    with pytest.raises(Unprocessable, match=words):
        use.grammar()
    assert use_of(TAGGED, tools=tools).grammar() is None, "free, it costs nothing"


def test_where_the_model_may_choose_it_is_free() -> None:
    assert use_of(TAGGED).grammar() is None
    assert use_of(TAGGED, tool_choice="auto", parallel_tool_calls=False).grammar() is None
