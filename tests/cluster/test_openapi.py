"""The live /openapi.json, taken at its word: what it allows is asked, in its edges too and beyond
them, and every answer has to be one that it names.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.generation import GenerationMode

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway, TinyModel
from tests.cluster.processes import START_S
from tests.model.tiny import save_tiny

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

POSTED = (
    "/", "/generate", "/generate_stream", "/v1/completions", "/v1/chat/completions",
    "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize",
)  # fmt: skip
ASKED = (
    "/", "/docs", "/livez", "/readyz", "/health", "/metrics", "/trace", "/v1/cluster", "/v1/models",
    "/tokenizer_info",
)  # fmt: skip
NAMED = (
    ("/v1/models/{model}", "get"),
    ("/receipts/{request_id}", "get"),
    ("/v1/responses/{response}", "get"),
    ("/v1/responses/{response}", "delete"),
)
"""Routes of one thing by its name."""
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
"""Requests that the document allows, and others."""
CASES = int(os.environ.get("OPENAPI_CASES", "300")) // (len(POSTED) * len(MODES))
OFTEN_REFUSED = ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/detokenize")
"""What fields mean for one another a schema cannot say: which role may call, or answer whom; nor
does it know the vocabulary.
"""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ANSWER_S = 30


@pytest.fixture(scope="module")
def brief(talker: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers are short, whatever is asked: its context has 64 tokens."""
    folder = tmp_path_factory.mktemp("brief")
    save_tiny("llama2", folder, vocab_size=340, max_position_embeddings=64)
    shutil.copy(Path(talker.folder, "tokenizer.model"), folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}:")
    return folder


@pytest.fixture(scope="module")
def api(workers: tuple[Address, ...], module_gateway: StartGateway, brief: Path) -> Any:
    url = module_gateway(workers, str(brief)).wait_until_announced(START_S)
    return schemathesis.openapi.from_url(url + "/openapi.json")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("path", POSTED)
def test_whatever_is_posted_has_an_answer_of_the_document(
    api: Any, path: str, mode: GenerationMode
) -> None:
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=CASES, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=api[path]["POST"].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        statuses[case.call_and_validate(checks=CHECKS, timeout=ANSWER_S).status_code] += 1

    ask()
    assert statuses.total() >= CASES
    if mode is GenerationMode.NEGATIVE:
        assert statuses[200] == 0
    elif path not in OFTEN_REFUSED:
        assert statuses[200] > 0


@pytest.mark.parametrize("path", ASKED)
def test_whatever_is_asked_has_an_answer_of_the_document(api: Any, path: str) -> None:
    answer = api[path]["GET"].Case().call_and_validate(checks=CHECKS, timeout=ANSWER_S)
    assert answer.status_code == 200


def test_all_routes_are_in_the_document(api: Any) -> None:
    operations = {(each.ok().path, each.ok().method) for each in api.get_all_operations()}
    expected = {(path, "post") for path in POSTED} | {(path, "get") for path in ASKED}
    assert operations == expected | {*NAMED}


@pytest.mark.parametrize(("path", "method"), NAMED)
def test_a_name_that_nothing_has_is_not_found(api: Any, path: str, method: str) -> None:
    case = api[path][method.upper()].Case(path_parameters={path.split("{")[1].strip("}"): "x"})
    assert case.call_and_validate(checks=CHECKS, timeout=ANSWER_S).status_code == 404
