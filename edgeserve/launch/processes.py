"""Child processes that announce themselves and never outlive their parent.

Each child watches its standard input, which is a pipe from here: when this process ends, however it
ends, the pipe closes and the child drains and stops.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeserve.config import environment_with
from edgeserve.errors import EdgeserveError

STOP_TIMEOUT_S = 15.0


@dataclass(kw_only=True)
class Child:
    """One `edgeserve` command that runs as a child."""

    name: str
    process: subprocess.Popen[str]
    announcement: str
    """What its line on standard output or error begins with, before the address."""
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
                f"{self.name} ended at start with exit code {code}; what it said is above"
            )
            error.exit_code = code if code > 0 else 3
            raise error
        return address

    def ended_within(self, timeout_s: float) -> int | None:
        """Its exit code; None if it runs on."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """Closes its input, waits, and kills it if it does not listen. Its exit code."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        code = self.ended_within(STOP_TIMEOUT_S)
        if code is None:
            self.process.kill()
            code = self.process.wait()
        return code


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


def _read(child: Child) -> None:
    assert child.process.stdout is not None
    with child.process.stdout as lines:
        for line in lines:
            if line.startswith(child.announcement):
                child._address.put(line.removeprefix(child.announcement).strip())
            else:
                sys.stderr.write(line)
    child._address.put(None)
