"""What may be asked of /generate, and what is said of anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import BadRequest, EdgeserveError, Unprocessable
from edgeserve.gateway.api.tgi.request import NOT_SUPPORTED, parse_request
from edgeserve.gateway.generate.parameters import Parameters

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def body(**parameters: Any) -> bytes:
    return json.dumps({"inputs": "x", "parameters": parameters}).encode()


def refusal(of: bytes) -> str:
    with pytest.raises(Unprocessable) as error:
        parse_request(of, streams=False)
    return str(error.value)


def refusal_or_nothing(of: bytes) -> str:
    try:
        parse_request(of, streams=False)
    except BadRequest as error:
        return str(error)
    return ""


# -- what is wrong, how much, and what to do ---------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("max_new_tokens", 0, "0"),
        ("max_new_tokens", -1, "-1"),
        ("max_new_tokens", 1.0, "1.0"),
        ("max_new_tokens", "5", '"5"'),
        ("max_new_tokens", True, "true"),
        ("max_new_tokens", 10**30, "1" + "0" * 30),
        ("temperature", -0.1, "-0.1"),
        ("temperature", 100.5, "100.5"),
        ("temperature", float("nan"), "NaN"),
        ("temperature", float("inf"), "Infinity"),
        ("temperature", "hot", '"hot"'),
        ("temperature", False, "false"),
        ("top_k", -2, "-2"),
        ("top_k", 2**31, "2147483648"),
        ("top_k", [], "a list of 0"),
        ("top_p", 0, "0"),
        ("top_p", 1.1, "1.1"),
        ("top_p", float("-inf"), "-Infinity"),
        ("min_p", -0.01, "-0.01"),
        ("min_p", 2, "2"),
        ("repetition_penalty", 0, "0"),
        ("repetition_penalty", 10.1, "10.1"),
        ("frequency_penalty", -2.1, "-2.1"),
        ("frequency_penalty", 3, "3"),
        ("frequency_penalty", float("nan"), "NaN"),
        ("seed", -(2**63) - 1, "-9223372036854775809"),
        ("seed", 2**64, "18446744073709551616"),
        ("seed", 0.5, "0.5"),
        ("do_sample", 1, "1"),
        ("do_sample", "yes", '"yes"'),
        ("stop", "END", '"END"'),
        ("stop", ["a"] * 33, "a list of 33"),
        ("stop_token_ids", 2, "2"),
        ("stop_token_ids", list(range(129)), "a list of 129"),
        ("ignore_eos", 0, "0"),
        ("truncate", 0, "0"),
        ("return_full_text", "no", '"no"'),
        ("details", {}, "an object of 0"),
        ("top_n_tokens", -1, "-1"),
        ("top_n_tokens", 21, "21"),
        ("top_n_tokens", 1.5, "1.5"),
        ("presence_penalty", 2.5, "2.5"),
        ("logit_bias", {str(i): 0 for i in range(301)}, "an object of 301"),
        ("grammar", {"type": "json"}, "an object of 1"),
        ("grammar", {"type": "json", "value": "[0-9]"}, "an object of 2"),
        ("grammar", {"type": "regex", "value": {}}, "an object of 2"),
        ("grammar", {"type": "json", "value": {}, "strict": True}, "an object of 3"),
        ("grammar", "[0-9]", '"[0-9]"'),
    ],
)
def test_a_parameter_out_of_bounds_is_told_by_name_value_and_bounds(
    name: str, value: Any, shown: str
) -> None:
    allowed = Parameters.model_fields[name].description
    assert refusal(body(**{name: value})) == (
        f"parameters.{name} is {shown}, but must be {allowed}"
    )


@pytest.mark.parametrize(
    ("name", "value", "place", "shown"),
    [
        ("stop", ["a", ""], "[1]", '""'),
        ("stop", ["b" * 257], "[0]", '"' + "b" * 196 + "..."),
        ("stop", [None], "[0]", "null"),
        ("stop_token_ids", [3, -1], "[1]", "-1"),
        ("stop_token_ids", [True], "[0]", "true"),
    ],
)
def test_an_element_of_a_list_is_told_with_its_place(
    name: str, value: Any, place: str, shown: str
) -> None:
    allowed = Parameters.model_fields[name].description
    expected = f"parameters.{name}{place} is {shown}, but {name} must be {allowed}"
    assert refusal(body(**{name: value})) == expected


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "inputs is missing, but must be a string of at least one character"),
        ({"inputs": ""}, 'inputs is "", but must be a string of at least one character'),
        ({"inputs": ["a", "b"]}, "inputs is a list of 2, but must be a string of at least"),
        ({"inputs": None}, "inputs is null, but must be a string"),
        ({"inputs": "x", "parameters": 3}, "parameters is 3, but must be an object such as"),
        ({"inputs": "x", "stream": 0}, "stream is 0, but must be true or false"),
        ([], "the body is a list of 0, but must be an object with `inputs`"),
        ("text", 'the body is "text", but must be an object'),
        (None, "the body is null, but must be an object"),
    ],
)
def test_the_rest_of_the_body_is_checked_too(document: Any, message: str) -> None:
    assert refusal(json.dumps(document).encode()).startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("best_of", 2, "leave it out or give 1"),
        ("best_of", True, "leave it out or give 1"),
        ("typical_p", 0.9, "leave it out"),
        ("watermark", True, "leave it out or give false"),
        ("watermark", 0, "leave it out or give false"),
        ("adapter_id", "mine", "leave it out"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: Any, cure: str) -> None:
    message = refusal(body(**{name: value}))
    assert message.startswith(f"parameters.{name} is ")
    assert message.endswith(f", which is not supported here: {cure}")


def test_what_is_not_supported_may_be_sent_if_it_asks_for_nothing() -> None:
    for name, neutral in NOT_SUPPORTED.items():
        for value in neutral:
            parse_request(body(**{name: value}), streams=False)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"inputs": "x", "parameters": {"max_tokens": 3}},
         'parameters."max_tokens" is not known (did you mean max_new_tokens?)'),
        ({"inputs": "x", "parameters": {"stop_sequences": []}},
         'parameters."stop_sequences" is not known (known are max_new_tokens, temperature, '),
        ({"input": "x"}, '"input" is not known (did you mean inputs?); inputs is missing'),
        ({"inputs": "x", "zzz": 1}, '"zzz" is not known (known are inputs, parameters, stream)'),
    ],
)  # fmt: skip
def test_a_key_that_nobody_knows_is_an_error_with_a_suggestion(document: Any, message: str) -> None:
    assert refusal(json.dumps(document).encode()).startswith(message)


def test_several_problems_are_told_at_once() -> None:
    message = refusal(body(top_k=-2, temprature=1, best_of=3, stop=[""]))
    for part in ("parameters.top_k is -2", "temprature", "parameters.best_of is 3", "stop[0]"):
        assert part in message


def test_stream_may_only_say_what_the_route_does() -> None:
    for streams in (True, False):
        asked = json.dumps({"inputs": "x", "stream": streams}).encode()
        assert parse_request(asked, streams=streams).stream is streams
        with pytest.raises(Unprocessable, match=f"post to /generate{'_stream' * streams}$"):
            parse_request(asked, streams=not streams)


# -- the error is bounded ----------------------------------------------------------------------


def test_at_most_ten_problems_are_told_and_the_others_counted() -> None:
    strangers = {f"stranger{i}": i for i in range(5000)}
    with pytest.raises(Unprocessable) as error:
        parse_request(body(**strangers), streams=False)
    assert str(error.value).count(" is not known") == 10
    assert str(error.value).endswith("; and 4990 more")
    assert error.value.numbers == {"problems": 5000}


@pytest.mark.parametrize(
    "sent",
    [
        body(temperature="x" * 10**6),
        body(**{"x" * 10**6: 1}),
        body(**{chr(0x100 + i) * 10**5: 1 for i in range(15)}),
        body(stop=[0] * 10**5),
        body(stop=["\N{EURO SIGN}" * 10**6]),
        body(seed=int("9" * 4000)),
        json.dumps(["x"] * 10**5).encode(),
        b'"' + b"x" * 10**6 + b'"',
        b"{" + b"x" * 10**6,
    ],
    ids=["value", "key", "keys", "list", "element", "number", "array", "string", "no json"],
)
def test_the_error_is_short_however_long_the_body(sent: bytes) -> None:
    with pytest.raises(EdgeserveError) as error:
        parse_request(sent, streams=False)
    assert len(json.dumps(error.value.to_json())) < 10_000


@pytest.mark.parametrize("place", ["inputs", "stop", "key"])
def test_half_a_surrogate_pair_is_refused_and_can_be_told(place: str) -> None:
    half = "\ud800"
    documents = {
        "inputs": {"inputs": "a" + half},
        "stop": {"inputs": "a", "parameters": {"stop": [half]}},
        "key": {"inputs": "a", half: 1},
    }
    message = refusal(json.dumps(documents[place]).encode())
    message.encode("utf-8")
    assert "holds half of a surrogate pair" in message


# -- JSON --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "the body is not JSON: Expecting value"),
        (b'{"inputs": ', "the body is not JSON: Expecting value: line 1 column 12"),
        (b'{"inputs": "a"} b', "the body is not JSON: Extra data"),
        (b'{"inputs": "\xff"}', "the body is not UTF-8: byte 0xff at offset 12; send JSON"),
        (b"[" * 10**5, "the body is nested too deeply"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "the body is not JSON: Exceeds the limit"),
    ],
    ids=["empty", "cut", "two", "bytes", "nested", "digits"],
)
def test_a_body_that_is_not_json_is_a_bad_request(sent: bytes, message: str) -> None:
    with pytest.raises(BadRequest) as error:
        parse_request(sent, streams=False)
    assert error.value.http_status == 400
    assert str(error.value).startswith(message)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(JSON, JSON)
def test_whatever_is_sent_is_taken_or_refused_in_words(inputs: Any, parameters: Any) -> None:
    sent = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    assert len(refusal_or_nothing(sent)) < 10_000


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from([*Parameters.model_fields, *NOT_SUPPORTED]), JSON))
def test_whatever_a_parameter_is_it_is_taken_or_refused_in_words(parameters: Any) -> None:
    message = refusal_or_nothing(body(**parameters))
    assert not message or message.startswith("parameters.")


def test_null_is_as_good_as_nothing() -> None:
    nulls = dict.fromkeys([*Parameters.model_fields, *NOT_SUPPORTED])
    document = {"inputs": "x", "parameters": nulls, "stream": None}
    parsed = parse_request(json.dumps(document).encode(), streams=False)
    assert parsed.wishes == Parameters.model_validate({})
    for parameters in ({"inputs": "x"}, {"inputs": "x", "parameters": None}):
        assert parse_request(json.dumps(parameters).encode(), streams=False).wishes == parsed.wishes
