"""A gateway that answers by script: one server for all tests, a new script for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.probe.fake_gateway import FakeGateway, Serving


@pytest.fixture(scope="session")
def serving() -> Iterator[Serving]:
    server = Serving()
    yield server
    server.stop()


@pytest.fixture
def gateway(serving: Serving) -> FakeGateway:
    serving.fake = FakeGateway(url=serving.url)
    return serving.fake
