"""What the kernel lets this process have of its machine: memory and processors.

A container, a systemd unit or a `ulimit` may allow much less than the machine has, and whoever goes
by the machine is killed in the midst of its work. Control groups are nested, and each of them
holds: the tightest one counts, whichever of its ancestors it is. What has been used of a limit is
subtracted, but for files that are only cached, since the kernel gives those up first.

Reads /proc and what is mounted of cgroups, version 1 and 2; knows no model and decides nothing. Not
covered: swap, which is too slow to hold weights; limits of ancestors that a container is not shown
under version 2.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
UNLIMITED_BYTES = 2**60
"""Version 1 has no word for 'no limit' but a number near 2**63; no machine has as much as this."""
MIB = 2**20
RLIMITS = (
    (resource.RLIMIT_AS, "VmSize", "the address space of each process (ulimit -v)"),
    (resource.RLIMIT_DATA, "VmData", "the data of each process (ulimit -d)"),
)
"""What each bounds, as /proc/self/status and people call it."""


@dataclass(frozen=True, kw_only=True)
class MemoryLimit:
    name: str
    """Which it is, for whoever wants to change it."""
    limit_bytes: int
    used_bytes: int
    """Of it, and not to be had back."""
    is_shared: bool = True
    """Among all processes that it holds for; else each has as much."""

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)

    def __str__(self) -> str:
        used, limit = self.used_bytes / MIB, self.limit_bytes / MIB
        return f"{self.name}: {used:,.0f} of {limit:,.0f} MiB are used"


@dataclass(frozen=True, kw_only=True)
class MemoryRoom:
    """What this process could still have."""

    machine_bytes: int
    """That are available on the machine, whoever may have them."""
    limits: tuple[MemoryLimit, ...] = ()

    @property
    def tightest(self) -> MemoryLimit | None:
        """The limit that ends before the machine's memory does."""
        least = min(self.limits, key=lambda each: each.free_bytes, default=None)
        return least if least and least.free_bytes < self.machine_bytes else None

    @property
    def free_bytes(self) -> int:
        return self.tightest.free_bytes if self.tightest else self.machine_bytes

    def free_for_each(self, processes: int) -> int:
        """Of several that are to be started here, and have as much as one another."""
        shared = [each.free_bytes for each in self.limits if each.is_shared]
        own = [each.free_bytes for each in self.limits if not each.is_shared]
        return min(min([self.machine_bytes, *shared]) // processes, *own, self.machine_bytes)


class _Cgroup(NamedTuple):
    """One that this process is in, or an ancestor of it."""

    folder: Path
    path: str
    """Below the root that is mounted."""
    is_v2: bool


def memory_limits(
    proc: Path = PROC, rlimit: Callable[[int], tuple[int, int]] = resource.getrlimit
) -> tuple[MemoryLimit, ...]:
    """All that hold for this process."""
    found = list(_rlimits(proc, rlimit))
    for each in _cgroups(proc, "memory"):
        found += _limits_v2(each) if each.is_v2 else _limits_v1(each)
    return tuple(found)


def cores(proc: Path = PROC) -> int:
    """How many threads can compute at once: as many as the process may run on, and no more than the
    quota of its cgroups feeds. A thread too many is stopped for a part of each 0.1 s, and whoever
    shares its work waits.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [_quota(each) for each in _cgroups(proc, "cpu")]
    return max(1, int(min([allowed, *filter(None, quotas)])))


def _limits_v2(cgroup: _Cgroup) -> Iterator[MemoryLimit]:
    stat = _table(cgroup.folder / "memory.stat")
    cached = sum(stat.get(name, 0) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    used_bytes = max(0, (_number(cgroup.folder / "memory.current") or 0) - cached)
    for name in ("memory.max", "memory.high"):
        limit_bytes = _number(cgroup.folder / name)
        if limit_bytes is not None:
            yield _limit(cgroup, name, limit_bytes, used_bytes)


def _limits_v1(cgroup: _Cgroup) -> Iterator[MemoryLimit]:
    """An ancestor that a container is not shown still stands in its statistics."""
    stat = _table(cgroup.folder / "memory.stat")
    cached = stat.get("total_inactive_file", 0) + stat.get("total_active_file", 0)
    used_bytes = max(0, (_number(cgroup.folder / "memory.usage_in_bytes") or 0) - cached)
    own_bytes = _number(cgroup.folder / "memory.limit_in_bytes")
    for name, limit_bytes in (
        ("memory.limit_in_bytes", own_bytes),
        ("hierarchical_memory_limit", stat.get("hierarchical_memory_limit")),
    ):
        if limit_bytes is not None and limit_bytes < UNLIMITED_BYTES:
            yield _limit(cgroup, name, limit_bytes, used_bytes)


def _limit(cgroup: _Cgroup, name: str, limit_bytes: int, used_bytes: int) -> MemoryLimit:
    return MemoryLimit(
        name=f"{name} of the cgroup {cgroup.path}", limit_bytes=limit_bytes, used_bytes=used_bytes
    )


def _rlimits(proc: Path, rlimit: Callable[[int], tuple[int, int]]) -> Iterator[MemoryLimit]:
    status = _text(proc / "self" / "status")
    for number, field, name in RLIMITS:
        limit_bytes, _ = rlimit(number)
        used = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
        if limit_bytes != resource.RLIM_INFINITY and used:
            yield MemoryLimit(
                name=name, limit_bytes=limit_bytes, used_bytes=int(used[1]) * 1024, is_shared=False
            )


def _quota(cgroup: _Cgroup) -> float | None:
    """Processors' worth of time in each period; None without a bound."""
    if cgroup.is_v2:
        quota, _, period = _text(cgroup.folder / "cpu.max").strip().partition(" ")
    else:
        quota = _text(cgroup.folder / "cpu.cfs_quota_us").strip()
        period = _text(cgroup.folder / "cpu.cfs_period_us").strip()
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None
    return int(quota) / int(period)


# -- where the cgroups are


def _cgroups(proc: Path, controller: str) -> Iterator[_Cgroup]:
    """Those of this process, from its own up to the highest that is mounted here."""
    paths = dict(_own_paths(proc, controller))
    for root, mounted_at, is_v2 in _mounts(proc, controller):
        if is_v2 not in paths:
            continue
        below = _below(root, paths[is_v2])
        for part in (below, *below.parents):
            folder = mounted_at / part
            if os.path.isdir(folder):  # noqa: PTH112  # Path's raises at a closed folder
                yield _Cgroup(folder, str("/" / part), is_v2)


def _own_paths(proc: Path, controller: str) -> Iterator[tuple[bool, str]]:
    """By whether it is version 2, where this process is: lines as '4:cpu,cpuacct:/docker/1a2b'."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield True, path
        elif controller in controllers.split(","):
            yield False, path


def _mounts(proc: Path, controller: str) -> Iterator[tuple[str, Path, bool]]:
    """What of the hierarchy is mounted, where, and whether it is version 2."""
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount, filesystem = before.split(), after.split()
        if len(mount) < 5 or not filesystem:  # id, parent, device, root, where
            continue
        root, where = _unescaped(mount[3]), Path(_unescaped(mount[4]))
        if filesystem[0] == "cgroup2":
            yield root, where, True
        elif filesystem[0] == "cgroup" and controller in filesystem[-1].split(","):
            yield root, where, False


def _below(root: str, path: str) -> Path:
    """From the mounted root to a cgroup. A process that is not below it, as its container's
    namespace may have it, is taken to be in the root itself: more is not shown.
    """
    with suppress(ValueError):
        relative = Path(path).relative_to(root)
        if ".." not in relative.parts:
            return relative
    return Path()


def _unescaped(text: str) -> str:
    r"""mountinfo writes a space as \040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _table(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    return {
        name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", _text(path), re.MULTILINE)
    }


def _number(path: Path) -> int | None:
    """None for a file that is not there, and for 'max'."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")  # names of folders may be any bytes
    except OSError:
        return ""
