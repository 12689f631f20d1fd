"""Goes to the workers: asks all of them what they are, then measures the links one by one.

One by one, because together they would share this box's port, and each would look slow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edgeserve.clock import Timekeeper
from edgeserve.doctor.examined import Answered, Silent
from edgeserve.doctor.link import Link, measure_link
from edgeserve.errors import EdgeserveError
from edgeserve.pipeline.cluster import Member
from edgeserve.pipeline.connection import Connection
from edgeserve.wire.client import WorkerClient

DESCRIBE_TIMEOUT_S = 5.0


async def visit(
    clients: Sequence[WorkerClient], clock: Timekeeper
) -> tuple[tuple[Answered | Silent, ...], tuple[Member, ...]]:
    """What became of each, and those that answered as members to plan with."""
    described = await asyncio.gather(*map(_describe, clients))
    members = tuple(each for each in described if isinstance(each, Member))
    return tuple([await _outcome(each, clock) for each in described]), members


async def _describe(client: WorkerClient) -> Member | Silent:
    try:
        return Member(client=client, description=await client.describe(DESCRIBE_TIMEOUT_S))
    except EdgeserveError as error:
        return Silent(worker=str(client.address), why=error)


async def _outcome(described: Member | Silent, clock: Timekeeper) -> Answered | Silent:
    if isinstance(described, Silent):
        return described
    return Answered(
        worker=described.name,
        description=described.description,
        link=await _link(described.client, clock),
    )


async def _link(client: Connection, clock: Timekeeper) -> Link | EdgeserveError:
    try:
        return await measure_link(client, clock)
    except EdgeserveError as error:
        return error
