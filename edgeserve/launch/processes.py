"""Child processes that announce themselves and never outlive their parent.

Each child watches its standard input, which is a pipe from here: when this process ends, however it
ends, the pipe closes and the child drains and stops.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeserve.box import MIB, memory_room
from edgeserve.clock import Clock
from edgeserve.config import environment_with, number_bytes
from edgeserve.errors import EdgeserveError

STOP_TIMEOUT_S = 15.0
GRACE_S = 1.2
"""For a child that has nothing to finish: an idle one takes 0.3 s, and one that still imports
PyTorch does not listen."""


@dataclass(kw_only=True)
class Child:
    """One `edgeserve` command that runs as a child."""

    name: str
    process: subprocess.Popen[str]
    announcement: str
    """What its line on standard output or error begins with, before the address."""
    has_announced: bool = False
    """Whether it came up, and somebody waited for it."""
    _address: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def wait_until_announced(self, timeout_s: float) -> str:
        """Its address. Raises EdgeserveError if it ends instead, or says nothing in time."""
        try:
            address = self._address.get(timeout=timeout_s)
        except queue.Empty:
            raise EdgeserveError(f"{self.name} has not come up in {timeout_s:.0f} s") from None
        if address is None:
            code = self.process.wait()
            error = EdgeserveError(
                f"{self.name} {self.how_it_ended()} at its start; what it said is above"
            )
            error.exit_code = code if code > 0 else 3
            raise error
        self.has_announced = True
        return address

    def ended_within(self, timeout_s: float) -> int | None:
        """Its exit code; None if it runs on."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def how_it_ended(self) -> str:
        """Of one that has, with what a kill that nobody here asked for most likely means."""
        code = self.process.wait()
        if code >= 0:
            return f"ended with exit code {code}"
        how = f"was ended by {signal.Signals(-code).name}"
        is_kill = code == -signal.SIGKILL
        return f"{how}, most likely out of memory ({self._memory()})" if is_kill else how

    def _memory(self) -> str:
        """What it was to have, and what there is."""
        given, room = _option(self.process.args, "--memory"), memory_room()
        planned = f"it was to take {number_bytes(given) / MIB:,.0f} MiB; " if given else ""
        now = f"{room.free_bytes / MIB:,.0f} MiB are free now"
        return f"{planned}{now}" + (f"; {room.tightest}" if room.tightest else "")

    def close_input(self) -> None:
        """Asks it to end: it drains, and stops."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()

    def stop(self, within_s: float = STOP_TIMEOUT_S) -> int:
        """Closes its input, waits, and kills it if it does not listen. Its exit code."""
        self.close_input()
        code = self.ended_within(within_s)
        if code is None:
            self.process.kill()
            code = self.process.wait()
        return code


def told_of_the_killed(children: Sequence[Child], error: EdgeserveError) -> list[str]:
    """How those ended that a signal ended and the error does not name: the cause of it, perhaps."""
    return [
        f"{each.name} {each.how_it_ended()}"
        for each in children
        if (each.process.poll() or 0) < 0 and each.name not in str(error)
    ]


def start_child(
    name: str, arguments: Sequence[str], announcement: str, environment: Mapping[str, str]
) -> Child:
    """Starts `edgeserve ARGUMENTS`; its lines pass through to standard error, but for the
    announcement.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeserve", *arguments, "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None,
        text=True,
        bufsize=1,
        env=environment_with(environment),
        start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order
    )
    child = Child(name=name, process=process, announcement=announcement)
    threading.Thread(target=_read, args=(child,), daemon=True).start()
    return child


def stop_all(children: Sequence[Child], clock: Clock) -> None:
    """All at once; those that have not ended after `GRACE_S` are killed."""
    deadline_s = clock.now_s() + GRACE_S
    for child in children:
        child.close_input()
    for child in children:
        child.stop(max(0.0, deadline_s - clock.now_s()))


def _read(child: Child) -> None:
    assert child.process.stdout is not None
    with child.process.stdout as lines:
        for line in lines:
            if line.startswith(child.announcement):
                child._address.put(line.removeprefix(child.announcement).strip())
            else:
                sys.stderr.write(line)
    child._address.put(None)


def _option(arguments: object, name: str) -> str:
    """Its value; empty if it is not among them."""
    told = list(arguments) if isinstance(arguments, list | tuple) else []
    return str(told[told.index(name) + 1]) if name in told else ""
