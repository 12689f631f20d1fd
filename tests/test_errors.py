"""One tree, drawn on its page, and three exits for every error."""

from __future__ import annotations

import http
import inspect
import json
import re

import grpc
import pytest

from edgeserve import errors
from edgeserve.errors import EdgeserveError, Overloaded, StageUnavailable, named_errors


def _classes() -> list[type[EdgeserveError]]:
    """All that the module defines, in its order."""
    return [
        each
        for each in vars(errors).values()
        if inspect.isclass(each) and issubclass(each, EdgeserveError)
    ]


def _drawn() -> dict[str, str]:
    """Of the module's docstring: each class and the one it hangs on."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in str(errors.__doc__).splitlines():
        match = re.match(r"^((?:│   |├── |└── |    )*)([A-Z]\w+)(?:  |$)", line[4:])
        if match is None or not line.startswith("    "):
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        parents[match[2]] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_that_is_drawn_is_the_tree_that_is() -> None:
    assert _drawn() == {each.__name__: each.__bases__[0].__name__ for each in _classes()}


def test_every_error_gets_its_class_back_by_its_name() -> None:
    assert named_errors() == {each.error_type: each for each in _classes()}
    assert len({each.error_type for each in _classes()}) == len(_classes())
    #      no two share a name


@pytest.mark.parametrize("kind", _classes())
def test_every_error_knows_its_three_exits(kind: type[EdgeserveError]) -> None:
    assert 400 <= http.HTTPStatus(kind.http_status) < 600
    assert grpc.StatusCode[kind.grpc_status] is not grpc.StatusCode.OK
    assert kind.exit_code in (2, 3, 4)
    #      2: bad usage or input; 3: the cluster could not do it; 4: a worker's GPU has failed


def test_whose_fault_it_is_shows_in_the_status() -> None:
    statuses = {each.__name__: (each.http_status, each.exit_code) for each in _classes()}
    assert statuses == {
        "EdgeserveError": (500, 3),
        "BadRequest": (400, 2),
        "Unprocessable": (422, 2),
        "Unauthorized": (401, 2),
        "NotFound": (404, 2),
        "MethodNotAllowed": (405, 2),
        "PayloadTooLarge": (413, 2),
        "UnsupportedEncoding": (415, 2),
        "HeadersTooLarge": (431, 2),
        "TooSlow": (408, 2),
        "BadSettings": (400, 2),
        "BadModel": (422, 2),
        "UnsupportedModel": (422, 2),
        "DoesNotFit": (422, 3),
        "FetchFailed": (503, 3),
        "DamagedWeights": (422, 3),
        "Overloaded": (429, 3),
        "RateLimited": (429, 3),
        "StageUnavailable": (503, 3),
        "DeviceLost": (503, 4),
        "WireError": (503, 3),
    }


def test_the_numbers_of_a_message_travel_beside_it() -> None:
    error = errors.Unprocessable("9 tokens, but at most 4", prompt_tokens=9, context_tokens=4)
    assert str(error) == "9 tokens, but at most 4"
    assert json.loads(json.dumps(error.to_json())) == {
        "error": "9 tokens, but at most 4",
        "error_type": "validation",
        "prompt_tokens": 9,
        "context_tokens": 4,
    }


def test_an_overload_says_when_to_come_again() -> None:
    error = Overloaded("later", retry_after_s=7, waiting=3)
    assert error.retry_after_s == 7
    assert error.to_json() == {
        "error": "later",
        "error_type": "overloaded",
        "retry_after_s": 7,
        "waiting": 3,
    }


def test_a_lost_stage_may_be_asked_again_unless_it_says_otherwise() -> None:
    error = StageUnavailable("gone", stage=1, worker="b:1")
    assert error.numbers == {"retryable": True, "stage": 1, "worker": "b:1"}
    assert StageUnavailable("gone", retryable=False).numbers == {"retryable": False}
