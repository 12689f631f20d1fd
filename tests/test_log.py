"""The log's two forms, and which request a line is about."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

import pytest

from edgeserve import log


@pytest.fixture
def restored() -> Iterator[None]:
    """The handlers and the level that pytest has set."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored")
def test_each_line_of_a_json_log_is_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    log.write_log("json")
    with log.request("abc"):
        logging.getLogger("edgeserve.made_up").warning("two\nlines of %s", "it")
    logging.getLogger("edgeserve.made_up").info("nobody's")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time")[:2] == "20"
    assert first == {
        "level": "warning",
        "logger": "edgeserve.made_up",
        "event": "two\nlines of it",
        "request_id": "abc",
    }
    assert "request_id" not in second


@pytest.mark.usefixtures("restored")
def test_an_exception_stays_in_its_document(capsys: pytest.CaptureFixture[str]) -> None:
    log.write_log("json")
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("edgeserve").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: the cause" in json.loads(line)["error"]


@pytest.mark.usefixtures("restored")
def test_the_console_has_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.write_log("console")
    with log.request("abc"), log.tenant("me"):
        logging.getLogger("edgeserve.made_up").info("said", extra={"path": "/a\nb"})
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ \[info +\] said +", line)
    assert "[edgeserve.made_up] path='/a\\nb' " in line
    assert "request_id='abc'" in line
    assert "tenant='me'" in line


@pytest.mark.usefixtures("restored")
def test_an_exception_stays_below_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log.write_log("console")
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("edgeserve").exception("failed")
    first, *rest = capsys.readouterr().err.splitlines()
    assert "failed" in first
    assert rest[-1] == "ValueError: the cause"


@pytest.mark.usefixtures("restored")
def test_a_document_has_what_was_given_beside_its_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log.write_log("json")
    with log.request("abc"), log.tenant("me"):
        logging.getLogger("edgeserve").info("said", extra={"status": 200})
    document = json.loads(capsys.readouterr().err)
    assert list(document)[:4] == ["time", "level", "logger", "event"]
    assert set(document) == {*list(document)[:4], "status", "request_id", "tenant"}
    assert (document["status"], document["tenant"]) == (200, "me")
