"""Which workers a gateway takes: no worker twice, and none that its plan does not fit."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings
from edgeserve.errors import BadSettings, StageUnavailable
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.pipeline.cluster import (
    Member,
    check_still_suits,
    connect,
    prefill_chunk,
    processors,
    worker_facts,
)
from edgeserve.plan.facts import Plan
from edgeserve.plan.planner import make_plan
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import Description
from edgeserve.wire.server import WorkerServer
from tests.wire.fake_worker import DESCRIPTION, LOOPBACK, FakeHandler

pytestmark = pytest.mark.asyncio
GB = 10**9
WORKER = replace(DESCRIPTION, memory_bytes=40 * GB, reserve_bytes=GB, dtypes=(Dtype.FP16,))
Members = Callable[..., tuple[Member, ...]]


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    """Workers of these descriptions, which are never asked for anything."""
    made: list[WorkerClient] = []

    def make(*descriptions: Description) -> tuple[Member, ...]:
        made.extend(WorkerClient(Address(f"box{i}", 50051), "") for i in range(len(descriptions)))
        pairs = zip(made[-len(descriptions) :], descriptions, strict=True)
        return tuple(Member(client=client, description=each) for client, each in pairs)

    yield make
    for client in made:
        await client.close()


def plan_of(members: tuple[Member, ...]) -> Plan:
    facts = [worker_facts(each) for each in members]
    return make_plan(SHAPES["llama-2-13b"], Dtype.FP16, facts, pages_max=100)


async def test_a_worker_that_comes_back_as_it_was_suits_and_so_does_a_larger_one(
    members: Members,
) -> None:
    plan = plan_of(members(WORKER, WORKER))
    check_still_suits(plan, members(WORKER, replace(WORKER, memory_bytes=99 * GB, identity="x")))
    needed = plan.stages[1].slice_bytes + GB
    check_still_suits(plan, members(WORKER, replace(WORKER, memory_bytes=needed)))


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"memory_bytes": 13_015_869_440 + GB - 1}, "of memory, of 14."),
        ({"memory_bytes": 3 * GB}, "may use 3.0 GB of memory, of 14."),
        ({"dtypes": (Dtype.FP32, Dtype.BF16)}, "computes in fp32, bf16 and not in fp16"),
    ],
)
async def test_another_worker_at_the_address_that_cannot_hold_the_stage_is_refused(
    difference: dict[str, object], words: str, members: Members
) -> None:
    plan = plan_of(members(WORKER, WORKER))
    other = replace(WORKER, **difference)  # type: ignore[arg-type]  # named above
    with pytest.raises(StageUnavailable) as refused:
        check_still_suits(plan, members(WORKER, other))
    assert words in str(refused.value)
    assert "box1:50051" in str(refused.value)
    assert refused.value.numbers["stage"] == 1


ONE_GPU, OTHER_GPU, NAMELESS_GPU = (
    replace(WORKER, device="cuda", device_uuid=uuid) for uuid in ("aaaa-1", "bbbb-2", "")
)


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ((ONE_GPU, ONE_GPU, ONE_GPU), 1),
        ((ONE_GPU, OTHER_GPU, ONE_GPU), 2),
        ((NAMELESS_GPU, NAMELESS_GPU), 2),
        ((ONE_GPU, NAMELESS_GPU), 2),
        ((WORKER, WORKER), 2),  # CPUs of two boxes
        ((WORKER, replace(WORKER, device_uuid="aaaa-1"), ONE_GPU), 3),
        ((replace(WORKER, device="paced"), replace(WORKER, device="paced")), 2),
    ],
)
async def test_workers_on_one_gpu_are_one_processor(
    workers: tuple[Description, ...], expected: int, members: Members
) -> None:
    assert processors(members(*workers)) == expected


async def test_a_gpu_that_holds_all_stages_reads_prompts_in_large_chunks(members: Members) -> None:
    settings = GatewaySettings(workers=(), model="demo")
    assert prefill_chunk(settings, members(ONE_GPU, ONE_GPU)) == 512
    assert prefill_chunk(settings, members(ONE_GPU, OTHER_GPU)) == 64


@pytest.mark.parametrize("other", ["localhost", "127.0.0.1", "[::1]"])
async def test_two_names_of_one_worker_are_found_when_connecting(other: str) -> None:
    handler = FakeHandler(description=replace(DESCRIPTION, identity="abc"))
    if other == "[::1]" and not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    server = WorkerServer(handler, "")
    where = await server.start(Address("::", 0) if other == "[::1]" else LOOPBACK)
    names = (Address("127.0.0.1", where.port), Address(other.strip("[]"), where.port))
    clients = [WorkerClient(each, "") for each in names]
    try:
        with pytest.raises(BadSettings) as refused:
            await connect(clients, 5.0, MonotonicClock())
        assert f"{names[0]} and {names[1]} are two addresses of one worker" in str(refused.value)
    finally:
        for client in clients:
            await client.close()
        await server.stop(0.1)


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False
