"""What `edgeserve up` gives its workers of this machine."""

from __future__ import annotations

import pytest

from edgeserve.allowance import MemoryLimit, MemoryRoom
from edgeserve.launch import up
from edgeserve.launch.up import worker_share


def test_workers_share_this_machine_s_memory() -> None:
    alone, shared = (int(worker_share(n, {"device": "cpu"})["memory"]) for n in (1, 4))

    assert shared < alone / 2  # a quarter, of what is free a moment later


def test_workers_share_their_containers_memory_and_not_the_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = MemoryLimit(name="memory.max", limit_bytes=1500, used_bytes=300)
    room = MemoryRoom(machine_bytes=10**10, limits=(most,))
    monkeypatch.setattr(up, "memory_room", lambda: room)
    assert worker_share(3, {"device": "cpu"}) == {"memory": str(int(0.7 * 400))}


def test_a_paced_worker_has_its_card_s_memory_and_not_a_share_of_this_machine_s() -> None:
    assert "memory" not in worker_share(3, {"pace": "rtx-3060"})
    assert "memory" not in worker_share(3, {"pace": "rtx-3060", "device": "cpu"})
