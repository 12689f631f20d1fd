"""What `edgeserve up` gives its workers of this machine."""

from __future__ import annotations

from edgeserve.launch.up import worker_share


def test_workers_share_this_machine_s_memory() -> None:
    alone, shared = (int(worker_share(n, {"device": "cpu"})["memory"]) for n in (1, 4))

    assert shared < alone / 2  # a quarter, of what is free a moment later


def test_a_paced_worker_has_its_card_s_memory_and_not_a_share_of_this_machine_s() -> None:
    assert "memory" not in worker_share(3, {"pace": "rtx-3060"})
    assert "memory" not in worker_share(3, {"pace": "rtx-3060", "device": "cpu"})
