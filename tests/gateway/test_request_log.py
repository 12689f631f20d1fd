"""Whatever is logged on a request's behalf is logged under its id."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgeserve.clock import ManualClock
from edgeserve.gateway.parts import GatewayParts
from edgeserve.log import JsonLines
from edgeserve.testing import FakeEngine

logger = logging.getLogger("edgeserve.made_up")


class Talkative(FakeEngine):
    """Logs without knowing for whom, and breaks."""

    def cluster(self) -> dict[str, Any]:
        logger.warning("asked")
        raise ZeroDivisionError("the cause")


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What edgeserve has logged as JSON."""
    written, root = io.StringIO(), logging.getLogger("edgeserve")
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    root.removeHandler(handler)


async def test_requests_at_the_same_time_log_under_their_own_ids(
    parts: GatewayParts,
    client_for: Callable[[GatewayParts], httpx.AsyncClient],
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    client = client_for(replace(parts, engine=Talkative(ManualClock())))
    ids = ["first", "second"]
    await asyncio.gather(
        *(client.get("/v1/cluster", headers={"x-request-id": each}) for each in ids)
    )
    logger.warning("nobody's")
    *of_requests, last = lines()
    for each in ids:
        asked, failed = [line for line in of_requests if line["request_id"] == each]
        assert (asked["event"], asked["logger"]) == ("asked", "edgeserve.made_up")
        assert failed["event"] == f"request {each} failed"
        assert "ZeroDivisionError: the cause" in failed["error"]
    assert (last["event"], "request_id" in last) == ("nobody's", False)
