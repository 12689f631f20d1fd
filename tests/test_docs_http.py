"""What docs/http.md says of routes and fields is what the code takes."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.api.body import Body
from edgeserve.gateway.api.messages.request import MessagesRequest
from edgeserve.gateway.api.openai.request import (
    ChatRequest,
    CompletionRequest,
    OpenAIRequest,
)
from edgeserve.gateway.api.openai.unread_fields import ACCEPTED, NOT_SERVED
from edgeserve.gateway.api.responses.request import ResponsesRequest
from edgeserve.gateway.api.tgi.request import NOT_SUPPORTED
from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState, ModelFacts
from edgeserve.gateway.generate.parameters import Parameters
from edgeserve.testing import FakeEngine
from tests.pages import code_of, page_text, rows_of, section_of

OTHER_BODIES = [("## Responses", ResponsesRequest), ("## Messages", MessagesRequest)]


@pytest.fixture(scope="module")
def routes() -> set[str]:
    """As /openapi.json lists them."""
    state = AppState(
        engine=FakeEngine(ManualClock()),
        model=ModelFacts(
            name="fake", weights="random", context_tokens=64, vocab=256, eos_ids=frozenset({0})
        ),
        tokenizer=None,  # type: ignore[arg-type]  # no request is made
        clock=ManualClock(),
    )
    paths = create_app(state).openapi()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def test_every_route_is_documented(routes: set[str]) -> None:
    documented = {
        code_of(row[0]) for row in rows_of(section_of(page_text("docs/http.md"), "## Routes"))
    }

    assert documented == routes


def test_every_key_of_the_cluster_is_documented() -> None:
    section = section_of(page_text("docs/http.md"), "## The cluster")
    documented = [key for row in rows_of(section) for key in re.findall(r"`(\w+)`", row[0])]
    cluster = asyncio.run(
        FakeEngine(ManualClock()).cluster()
    )  # whose keys are the real one's: test_seeing.py

    assert sorted(documented) == sorted([*cluster, *cluster["stages"][0]])


def test_every_parameter_is_documented_with_what_it_must_be() -> None:
    documented = {
        code_of(row[0]): row[1]
        for row in rows_of(section_of(page_text("docs/http.md"), "## Asking"))
    }

    assert documented == {name: each.description for name, each in Parameters.model_fields.items()}


def test_every_field_of_openais_routes_is_documented_with_what_it_must_be() -> None:
    page = page_text("docs/http.md")
    both = rows_of(section_of(page, "### Of both"))
    headings: dict[str, type[OpenAIRequest]] = {
        "### Of a completion": CompletionRequest,
        "### Of a chat": ChatRequest,
    }
    for heading, kind in headings.items():
        rows = [*both, *rows_of(section_of(page, heading))]
        documented = {code_of(row[0]): row[1] for row in rows}
        expected = {name: kind.model_fields[name].description for name in kind.names()}

        assert documented == expected


@pytest.mark.parametrize(("title", "kind"), OTHER_BODIES)
def test_every_field_of_other_bodies_is_documented_with_what_it_must_be(
    title: str, kind: type[Body]
) -> None:
    documented = {
        code_of(row[0]): row[1] for row in rows_of(section_of(page_text("docs/http.md"), title))
    }
    shared = Parameters.model_fields.keys() - {"stop"}

    assert documented == {
        name: kind.model_fields[name].description for name in kind.names() if name not in shared
    }


@pytest.mark.parametrize(("title", "kind"), OTHER_BODIES)
def test_every_field_of_other_bodies_that_is_not_read_or_refused_is_named(
    title: str, kind: type[Body]
) -> None:
    section = section_of(page_text("docs/http.md"), title)
    names = [*kind.NOT_SERVED, *kind.ACCEPTED]

    assert [name for name in names if f"`{name}`" not in section] == []


def test_every_field_of_openais_that_is_refused_is_documented() -> None:
    rows = rows_of(section_of(page_text("docs/http.md"), "### Refused"))
    neutral = {name: [f"`{json.dumps(v)}`" for v in values] for name, values in NOT_SERVED.items()}

    assert {code_of(row[0]): row[1].split(", ") for row in rows} == neutral


def test_every_field_that_is_accepted_without_effect_is_listed() -> None:
    section = section_of(page_text("docs/http.md"), "### Accepted without effect")
    listed = section.split("\n\n")[1]

    assert re.findall(r"`(\w+)`", listed) == sorted(ACCEPTED)


def test_every_parameter_that_is_refused_is_named() -> None:
    section = section_of(page_text("docs/http.md"), "## Asking")

    assert [name for name in NOT_SUPPORTED if f"`{name}`" not in section] == []
