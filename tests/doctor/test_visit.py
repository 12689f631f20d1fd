"""Workers that are well, of another version, behind another token, or not there: by real gRPC."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address
from edgeserve.doctor import link as link_module
from edgeserve.doctor import visit as visit_module
from edgeserve.doctor.examined import Answered, Silent
from edgeserve.doctor.link import Link
from edgeserve.doctor.visit import visit
from edgeserve.errors import StageUnavailable, Unauthorized, WireError
from edgeserve.wire.client import WorkerClient
from tests.doctor.made_up import BOX
from tests.wire.fake_worker import DESCRIPTION, FakeHandler, serving


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "IDLE_S", 0.001)


async def outcome(client: WorkerClient) -> Answered | Silent:
    ((seen,), _members) = await visit([client], MonotonicClock())
    return seen


@pytest.mark.slow
async def test_a_worker_says_what_it_is_and_its_link_is_measured() -> None:
    told = replace(DESCRIPTION, box=BOX, held=True, package_version="99.0")
    async with serving(FakeHandler(description=told), token="t") as client:
        seen = await outcome(client)

        assert isinstance(seen, Answered)
        assert (seen.worker, seen.description) == (str(client.address), told)
        assert isinstance(seen.link, Link)
        assert 0 < seen.link.round_trip_s < 1
        assert seen.link.bytes_per_s > 1e6


async def test_a_wrong_token_is_told_as_such() -> None:
    async with serving(FakeHandler(), token="t", said="another") as client:
        seen = await outcome(client)

    assert isinstance(seen, Silent)
    assert isinstance(seen.why, Unauthorized)


async def test_another_protocol_is_told_with_both() -> None:
    async with serving(FakeHandler(description=replace(DESCRIPTION, protocol=77))) as client:
        seen = await outcome(client)

    assert isinstance(seen, Silent)
    assert isinstance(seen.why, WireError)
    assert "protocol 77" in str(seen.why)


@pytest.mark.slow
async def test_who_never_answers_is_given_up_and_the_others_are_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(visit_module, "DESCRIBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        silent = WorkerClient(Address("127.0.0.1", mute.getsockname()[1]), "")
        async with serving(FakeHandler()) as client:
            (first, second), members = await visit([silent, client], MonotonicClock())
        await silent.close()

    assert isinstance(first, Silent)
    assert isinstance(first.why, StageUnavailable)
    assert isinstance(second, Answered)
    assert [each.client for each in members] == [client]


async def test_a_worker_that_dies_while_its_link_is_measured_has_a_reason_for_a_link() -> None:
    class Dying(WorkerClient):
        async def echo(self, payload: bytes, timeout_s: float) -> bytes:
            raise StageUnavailable("it is gone")

    async with serving(FakeHandler()) as client:
        dying = Dying(client.address, "")
        seen = await outcome(dying)
        await dying.close()

    assert isinstance(seen, Answered)
    assert isinstance(seen.link, StageUnavailable)
