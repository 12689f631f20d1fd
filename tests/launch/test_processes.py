"""Children of `edgeserve up`: how the end of one is told."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from edgeserve.allowance import MemoryLimit, MemoryRoom
from edgeserve.errors import EdgeserveError
from edgeserve.launch import processes
from edgeserve.launch.processes import Child, told_of_the_killed

MIB = 2**20
WAITS = "import time; time.sleep(60)"


def child_of(code: str, *arguments: str, name: str = "worker 0") -> Child:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    process.stdin.close()
    return Child(name=name, process=process, announcement="up at")


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of 1.5 GiB, of which 0.25 are used."""
    most = MemoryLimit(
        name="memory.max of the cgroup /", limit_bytes=1536 * MIB, used_bytes=256 * MIB
    )
    room = MemoryRoom(machine_bytes=23_000 * MIB, limits=(most,))
    monkeypatch.setattr(processes, "memory_room", lambda: room)


@pytest.mark.usefixtures("limited")
def test_a_killed_child_is_told_with_what_it_planned_and_what_there_was() -> None:
    child = child_of(WAITS, "--memory", "1000MiB")
    child.process.kill()
    assert child.how_it_ended() == (
        "was ended by SIGKILL, most likely out of memory (it was to take 1,000 MiB; 1,280 MiB are "
        "free now; memory.max of the cgroup /: 256 of 1,536 MiB are used)"
    )


@pytest.mark.usefixtures("limited")
def test_a_child_that_was_killed_at_its_start_is_told_so() -> None:
    child = child_of(WAITS)
    child.process.kill()
    child._address.put(None)
    with pytest.raises(EdgeserveError, match="worker 0 was ended by SIGKILL, most likely") as told:
        child.wait_until_announced(5)
    assert told.value.exit_code == 3


def test_another_signal_is_named_and_blamed_on_nothing() -> None:
    child = child_of(WAITS)
    child.process.send_signal(signal.SIGTERM)
    assert child.how_it_ended() == "was ended by SIGTERM"


def test_an_exit_code_is_told_as_it_is() -> None:
    assert child_of("raise SystemExit(4)").how_it_ended() == "ended with exit code 4"


@pytest.mark.usefixtures("limited")
def test_an_error_of_one_child_is_told_with_the_kill_of_another() -> None:
    killed, alive = child_of(WAITS, name="worker 1"), child_of(WAITS, name="worker 2")
    killed.process.kill()
    killed.process.wait()
    (told,) = told_of_the_killed([killed, alive], EdgeserveError("the gateway ended"))
    assert told.startswith("worker 1 was ended by SIGKILL, most likely out of memory (1,280 MiB")
    assert told_of_the_killed([killed, alive], EdgeserveError("worker 1 was ended")) == []
    alive.process.kill()
    alive.process.wait()
