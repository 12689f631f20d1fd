"""Forms of answers as OpenAI's, TGI's and vLLM's clients ask for them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import Unprocessable
from edgeserve.gateway.api.body import parse_body
from edgeserve.gateway.api.openai.request import CompletionRequest
from edgeserve.gateway.generate.conversation import ChoiceAnswer, HeldTo, JsonAnswer, RegexAnswer
from edgeserve.testing import FakeEngine
from tests.gateway.drawn import drawn

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
NAMED = {"name": "it", "schema": SCHEMA}
AS_SCHEMA = JsonAnswer(schema=SCHEMA)


@pytest.fixture
def engine(clock: ManualClock) -> FakeEngine:
    return FakeEngine(clock, drawn(300))


def held_to(**fields: Any) -> HeldTo | None:
    body = json.dumps({"prompt": "x", **fields}).encode()
    return parse_body(body, CompletionRequest).held_to


def refusal(**fields: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        held_to(**fields)
    return str(error.value)


@pytest.mark.parametrize(
    ("form", "asked"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonAnswer()),
        ({"type": "json"}, JsonAnswer()),
        ({"type": "json_object", "schema": SCHEMA}, AS_SCHEMA),
        ({"type": "json_object", "value": SCHEMA}, AS_SCHEMA),
        ({"type": "json", "value": SCHEMA}, AS_SCHEMA),
        ({"type": "json", "value": json.dumps(SCHEMA)}, AS_SCHEMA),
        ({"type": "json_schema", "json_schema": NAMED}, AS_SCHEMA),
        ({"type": "json_schema", "value": NAMED}, AS_SCHEMA),
        ({"type": "json_schema", "value": SCHEMA}, AS_SCHEMA),
        ({"type": "regex", "value": "[0-9]+"}, RegexAnswer(pattern="[0-9]+")),
    ],
)
def test_a_response_format_may_be_openais_or_tgis(form: Any, asked: HeldTo | None) -> None:
    assert held_to(response_format=form) == asked


@pytest.mark.parametrize(
    ("fields", "asked"),
    [
        ({"guided_json": SCHEMA}, AS_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, AS_SCHEMA),
        ({"guided_regex": "a|b"}, RegexAnswer(pattern="a|b")),
        ({"guided_choice": ["a", "b"]}, ChoiceAnswer(choices=["a", "b"])),
        ({"structured_outputs": {"json": SCHEMA}}, AS_SCHEMA),
        ({"structured_outputs": {"regex": "a|b"}}, RegexAnswer(pattern="a|b")),
        ({"structured_outputs": {"choice": ["a"]}}, ChoiceAnswer(choices=["a"])),
        ({"structured_outputs": {"json_object": True}}, JsonAnswer()),
        ({"structured_outputs": {"json_object": False, "regex": None}}, None),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, RegexAnswer(pattern="a")),
    ],
)
def test_vllms_names_ask_for_the_same(fields: Any, asked: HeldTo | None) -> None:
    assert held_to(**fields) == asked


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": {"type": "json", "value": "no json"}}, "response_format is an object"),
        ({"response_format": {"type": "json", "value": "[]"}}, "response_format is an object"),
        ({"response_format": {"type": "json", "value": 3}}, "response_format.value"),
        ({"response_format": {"type": "regex"}}, "type is regex, but value is missing"),
        ({"response_format": {"type": "regex", "value": {}}}, "value is no string"),
        ({"response_format": {"type": "text", "value": {}}}, "but value is given: give nothing"),
        (
            {"response_format": {"type": "json_object", "value": {}, "schema": {}}},
            "but schema and value is given",
        ),
        ({"guided_json": "{"}, 'guided_json is "{", but must be a JSON schema'),
        ({"guided_json": "[" * 100_000}, "guided_json is "),
        ({"guided_regex": ""}, 'guided_regex is "", but must be'),
        ({"guided_choice": []}, "guided_choice is a list of 0, but must be"),
        ({"guided_choice": ["a"] * 257}, "guided_choice is a list of 257"),
        ({"guided_choice": ["a", ""]}, 'guided_choice[1] is ""'),
        ({"structured_outputs": {"grammar": "x"}}, 'structured_outputs.grammar is "x"'),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "is to have several forms: give one of"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "is to have several forms"),
        ({"guided_grammar": "root ::= x"}, "guided_grammar is "),
    ],
)
def test_what_is_no_form_is_refused(fields: Any, said: str) -> None:
    assert said in refusal(**fields)
    assert len(refusal(**fields)) < 600


async def test_a_choice_is_one_of_those_given(client: httpx.AsyncClient) -> None:
    choices = ["yes", 'no "way"\n', "\N{EURO SIGN}"]
    body = {"prompt": "a", "guided_choice": choices, "n": 6, "max_tokens": 40}
    answer = (await client.post("/v1/completions", json=body)).json()
    texts = {choice["text"] for choice in answer["choices"]}
    assert texts <= set(choices)
    assert len(texts) > 1


async def test_an_expression_is_matched(client: httpx.AsyncClient) -> None:
    form = {"type": "regex", "value": "[0-9]{3}"}
    body = {"prompt": "a", "response_format": form, "max_tokens": 40}
    answer = (await client.post("/v1/completions", json=body)).json()
    text = answer["choices"][0]["text"]
    assert (len(text), text.isdecimal()) == (3, True)


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json_object", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_schema", "value": NAMED},
        {"type": "json_schema", "value": SCHEMA},
    ],
)
async def test_a_grammar_of_tgis_has_several_names(grammar: Any, client: httpx.AsyncClient) -> None:
    body = {"inputs": "a", "parameters": {"grammar": grammar, "max_new_tokens": 40}}
    (answer,) = (await client.post("/", json=body)).json()
    assert json.loads(answer["generated_text"])["a"] in (True, False)
