"""How much memory a worker on a CPU takes, and how many threads."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch

from edgeserve.allowance import MemoryLimit, MemoryRoom
from edgeserve.clock import ManualClock
from edgeserve.config import WorkerSettings
from edgeserve.worker import device
from edgeserve.worker.device import cpu_memory_bytes, open_device

LIMIT = MemoryLimit(name="memory.max", limit_bytes=1500, used_bytes=500)
LIMITED = MemoryRoom(machine_bytes=23_000, limits=(LIMIT,))
FREE = MemoryRoom(machine_bytes=23_000)


def test_a_share_of_what_the_process_may_have_and_not_of_the_machine() -> None:
    assert cpu_memory_bytes(0, LIMITED) == 800
    assert cpu_memory_bytes(0, FREE) == 18_400


def test_what_is_asked_for_is_taken_unless_a_limit_forbids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert cpu_memory_bytes(1000, LIMITED) == 1000
    assert cpu_memory_bytes(30_000, FREE) == 30_000, "the operator may know better"
    with caplog.at_level(logging.WARNING):
        assert cpu_memory_bytes(1001, LIMITED) == 1000
    assert "memory.max" in caplog.text


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("told", "fed", "expected"), [(0, 3, 3), (0, 64, 4), (2, 1, 2)])
def test_threads_are_what_the_quota_feeds_unless_told(
    told: int, fed: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cores", lambda: fed)
    monkeypatch.setattr(device, "memory_room", lambda: LIMITED)
    opened = open_device(WorkerSettings(device="cpu", threads=told), ManualClock())
    assert torch.get_num_threads() == expected
    assert (opened.memory_bytes, opened.name) == (800, f"{fed} cores")
