"""docs/clients.md names every client in the version that is run."""

from __future__ import annotations

from tests.clients.conftest import PAGE, ROWS
from tests.clients.environments import read_clients


def test_the_page_has_a_row_for_every_client_in_its_pinned_version() -> None:
    (rows,) = ROWS.findall(PAGE.read_text(encoding="utf-8"))
    told = {tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows.splitlines()}
    assert told == {(client.title, client.version) for client in read_clients().values()}
