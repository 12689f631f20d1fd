"""A cluster that clients are run against, and the page that says how that went."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.environments import Client, read_clients
from tests.cluster.conftest import module_gateway, workers
from tests.cluster.processes import START_S, announced, exit_codes, start_gateway, start_worker

__all__ = ["module_gateway", "workers"]
PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
ROWS = re.compile(r"(?<=<!-- rows -->\n).*?(?=<!-- end -->)", re.DOTALL)

Record = Callable[[Client, str, str], None]


@dataclass(frozen=True)
class Row:
    client: Client
    job: str
    result: str


RAN: list[Row] = []
"""In this process."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With `--write-clients-page`, in one process, and if every client was run."""
    if session.config.getoption("--write-clients-page") and RAN:
        order = [*read_clients()]
        rows = sorted(RAN, key=lambda row: order.index(row.client.name))
        lines = [
            f"| {row.client.title} | {row.client.version} | {row.job} | {row.result} |\n"
            for row in rows
        ]
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(ROWS.sub(lambda _: "".join(lines), page), encoding="utf-8")


@pytest.fixture
def record() -> Record:
    """Called once by each test of a client: its row of docs/clients.md."""
    return lambda client, job, result: RAN.append(Row(client, job, result))


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Of a gateway with three workers of its own, on the demo model in fp32."""
    children = [start_worker() for _ in range(3)]
    try:
        children.append(start_gateway([*map(announced, children)], "demo"))
        yield children[-1].wait_until_announced(START_S)
    finally:
        exit_codes(children[::-1])
