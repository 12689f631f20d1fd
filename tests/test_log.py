"""The log's two forms, and which request a line is about."""

from __future__ import annotations

import json
import logging
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
    logging.getLogger("edgeserve.made_up").info("said")
    assert capsys.readouterr().err.endswith(" INFO edgeserve.made_up: said\n")
