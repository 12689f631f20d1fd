"""Memory and processors that a process may have, from made-up /proc and cgroup trees, and for real
where this process may make a cgroup of its own.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from edgeserve.allowance import MemoryLimit, MemoryRoom, cores, memory_limits

GIB, MIB = 2**30, 2**20
V1_UNLIMITED = 2**63 - 4096
OWN = "import sys; from edgeserve.box import memory_room; room = memory_room();"
TELL = f"{OWN} print(room.free_bytes, room.tightest.limit_bytes if room.tightest else 0)"


class Machine:
    """A /proc and what is mounted of cgroups."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.mounts = folder / "proc", folder / "cgroup"
        self._mountinfo: list[str] = []
        (self.proc / "self").mkdir(parents=True)

    def in_cgroups(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mount(self, name: str, kind: str, options: str, root: str = "/") -> Path:
        where = self.mounts / name
        where.mkdir(parents=True, exist_ok=True)
        shown = str(where).replace(" ", r"\040")
        line = f"35 31 0:32 {root} {shown} rw,relatime shared:9 - {kind} cgroup {options}\n"
        self._mountinfo.append(line)
        (self.proc / "self" / "mountinfo").write_text("".join(self._mountinfo))
        return where

    def status(self, **kilobytes: int) -> None:
        lines = [f"{name}:\t {size} kB\n" for name, size in kilobytes.items()]
        (self.proc / "self" / "status").write_text("Name:\tpython\n" + "".join(lines))

    def limits(self, **rlimits: int) -> dict[str, int]:
        """Free bytes by the limit's name."""

        def rlimit(number: int) -> tuple[int, int]:
            name = {resource.RLIMIT_AS: "AS", resource.RLIMIT_DATA: "DATA"}[number]
            return rlimits.get(name, resource.RLIM_INFINITY), resource.RLIM_INFINITY

        return {each.name: each.free_bytes for each in memory_limits(self.proc, rlimit)}

    def tightest(self) -> MemoryLimit | None:
        return MemoryRoom(machine_bytes=2**60, limits=memory_limits(self.proc)).tightest


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "a machine")


def write(folder: Path, files: Mapping[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")


def v2(
    maximum: object, current: int = 0, high: object = "max", stat: str = "anon 5"
) -> dict[str, object]:
    return {
        "memory.max": maximum, "memory.high": high, "memory.current": current, "memory.stat": stat
    }  # fmt: skip


def v1(limit: int, usage: int = 0, stat: str = "cache 5") -> dict[str, object]:
    return {
        "memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat
    }  # fmt: skip


# -- memory, version 2


def test_in_a_namespace_of_its_own_the_root_is_the_containers(machine: Machine) -> None:
    machine.in_cgroups("0::/")
    write(machine.mount("unified", "cgroup2", "rw"), v2(3 * GIB // 2, GIB // 2))
    assert machine.limits() == {"memory.max of the cgroup /": GIB}


def test_the_tightest_of_all_ancestors_counts(machine: Machine) -> None:
    machine.in_cgroups("0::/system.slice/edge.service/worker")
    root = machine.mount("", "cgroup2", "rw,nsdelegate")
    write(root / "system.slice", v2(4 * GIB, GIB))
    write(root / "system.slice/edge.service", v2(3 * GIB, GIB, high=2 * GIB))
    write(root / "system.slice/edge.service/worker", v2("max", 0))
    assert machine.limits() == {
        "memory.max of the cgroup /system.slice": 3 * GIB,
        "memory.max of the cgroup /system.slice/edge.service": 2 * GIB,
        "memory.high of the cgroup /system.slice/edge.service": GIB,
    }
    tightest = machine.tightest()
    assert tightest is not None
    assert tightest.name == "memory.high of the cgroup /system.slice/edge.service"
    assert str(tightest).endswith(": 1,024 of 2,048 MiB are used")


def test_cached_files_can_be_had_back_and_shared_memory_cannot(machine: Machine) -> None:
    machine.in_cgroups("0::/a")
    stat = (
        f"anon {GIB}\nfile {2 * GIB}\nshmem {GIB // 2}\ninactive_file {GIB}\n"
        f"active_file {GIB // 2}\nslab_reclaimable {GIB // 4}"
    )
    write(machine.mount("", "cgroup2", "rw") / "a", v2(4 * GIB, 3 * GIB, stat=stat))
    assert list(machine.limits().values()) == [4 * GIB - (3 * GIB - GIB - GIB // 2 - GIB // 4)]


def test_more_in_use_than_allowed_leaves_nothing_and_not_less(machine: Machine) -> None:
    machine.in_cgroups("0::/")
    write(machine.mount("", "cgroup2", "rw"), v2(GIB, 2 * GIB))
    assert list(machine.limits().values()) == [0]


def test_no_limit_is_none(machine: Machine) -> None:
    machine.in_cgroups("0::/a")
    write(machine.mount("", "cgroup2", "rw") / "a", v2("max"))
    assert machine.limits() == {}
    assert machine.tightest() is None


@pytest.mark.parametrize("path", ["/../elsewhere", "/gone/away", "/other"])
def test_a_path_that_is_not_shown_is_taken_for_the_nearest_above(
    path: str, machine: Machine
) -> None:
    machine.in_cgroups(f"0::{path}")
    mounted = machine.mount("unified", "cgroup2", "rw", root="/")
    write(mounted, v2(GIB))
    write(mounted.parent, v2(1))  # outside of what is mounted
    assert machine.limits() == {"memory.max of the cgroup /": GIB}


# -- memory, version 1, and both at once


def test_a_container_of_version_1_is_mounted_at_the_root(machine: Machine) -> None:
    """Without a namespace the process is told its path on the host, and shown only its own part."""
    machine.in_cgroups("4:memory:/docker/1a2b", "1:cpu,cpuacct:/docker/1a2b", "0::/")
    stat = f"cache 9\ntotal_inactive_file {MIB}\ntotal_active_file {MIB}\ninactive_file 7"
    mounted = machine.mount("memory", "cgroup", "rw,memory", root="/docker/1a2b")
    write(mounted, v1(GIB, GIB // 2 + 2 * MIB, stat))
    assert machine.limits() == {"memory.limit_in_bytes of the cgroup /": GIB // 2}


def test_version_1_says_unlimited_with_a_number(machine: Machine) -> None:
    machine.in_cgroups("4:memory:/a/b")
    root = machine.mount("memory", "cgroup", "rw,memory")
    write(root, v1(V1_UNLIMITED))
    write(root / "a", v1(2 * GIB, GIB))
    write(root / "a/b", v1(V1_UNLIMITED, 0))
    assert machine.limits() == {"memory.limit_in_bytes of the cgroup /a": GIB}


def test_an_ancestor_that_is_not_shown_counts_by_what_the_statistics_say(machine: Machine) -> None:
    machine.in_cgroups("4:memory:/docker/1a2b")
    mounted = machine.mount("memory", "cgroup", "rw,memory", root="/docker/1a2b")
    write(mounted, v1(V1_UNLIMITED, 0, f"hierarchical_memory_limit {GIB}"))
    assert list(machine.limits().values()) == [GIB]


def test_of_both_versions_the_one_that_has_the_controller_counts(machine: Machine) -> None:
    machine.in_cgroups("4:memory:/a", "3:cpuset:/", "0::/session")
    write(machine.mount("unified", "cgroup2", "rw") / "session", {"cgroup.procs": 1})
    write(machine.mount("memory", "cgroup", "rw,memory") / "a", v1(GIB))
    assert machine.limits() == {"memory.limit_in_bytes of the cgroup /a": GIB}


# -- limits of a process


def test_a_processs_own_limits_count_less_what_it_has(machine: Machine) -> None:
    machine.status(VmSize=1024 * 1024, VmData=512 * 1024, VmRSS=7)
    free = machine.limits(AS=4 * GIB, DATA=GIB)
    assert list(free.values()) == [3 * GIB, GIB // 2]
    assert "ulimit -v" in next(iter(free))


def test_a_machine_that_shows_nothing_has_no_limits(machine: Machine) -> None:
    assert machine.limits(AS=GIB) == {}


# -- what is left


def test_names_that_are_no_utf_8_and_folders_that_are_closed_hide_no_limit(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.in_cgroups("0::/box")
    closed = machine.mount("closed", "cgroup2", "rw")
    write(machine.mount("v2", "cgroup2", "rw") / "box", v2(GIB))
    mountinfo = machine.proc / "self" / "mountinfo"
    mountinfo.write_bytes(
        b"1 2 0:1 / /mnt/caf\xe9 rw - ext4 /dev/sda rw\n" + mountinfo.read_bytes()
    )
    stat = Path.stat

    def stat_but_of_closed(path: Path, **options: bool) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_but_of_closed)
    assert machine.limits() == {"memory.max of the cgroup /box": GIB}
    assert cores(machine.proc) >= 1


def limit(free: int, *, is_shared: bool = True) -> MemoryLimit:
    return MemoryLimit(name="x", limit_bytes=free + 5, used_bytes=5, is_shared=is_shared)


def test_a_limit_above_what_the_machine_has_limits_nothing() -> None:
    room = MemoryRoom(machine_bytes=10, limits=(limit(11),))
    assert (room.free_bytes, room.tightest) == (10, None)
    room = MemoryRoom(machine_bytes=10, limits=(limit(11), limit(7), limit(8)))
    assert (room.free_bytes, room.tightest) == (7, limit(7))


def test_processes_share_a_cgroup_and_each_has_its_own_ulimit() -> None:
    own = limit(40, is_shared=False)
    assert MemoryRoom(machine_bytes=100, limits=(limit(90), own)).free_for_each(3) == 30
    assert MemoryRoom(machine_bytes=100, limits=(limit(90), own)).free_for_each(2) == 40
    assert MemoryRoom(machine_bytes=100).free_for_each(4) == 25


# -- processors


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 1), ("5000 100000", 1)],
)
def test_threads_are_what_the_quota_of_the_tightest_ancestor_feeds(
    quota: str, expected: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    machine.in_cgroups("0::/a/b")
    root = machine.mount("", "cgroup2", "rw")
    write(root / "a", {"cpu.max": quota})
    write(root / "a/b", {"cpu.max": "max 100000"})
    assert cores(machine.proc) == expected


@pytest.mark.parametrize(("quota", "expected"), [(-1, 8), (300000, 3), (10**9, 8)])
def test_the_same_of_version_1_and_never_more_than_the_process_may_run_on(
    quota: int, expected: int, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))
    machine.in_cgroups("1:cpu,cpuacct:/a")
    mounted = machine.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    write(mounted / "a", {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": 100000})
    assert cores(machine.proc) == expected


# -- for real


@pytest.mark.slow
def test_a_real_ulimit_is_seen() -> None:
    shell = f"ulimit -v {2 * 1024 * 1024}; exec {sys.executable} -c '{TELL}'"
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    free, most = map(int, told.stdout.split())
    assert most == 2 * GIB
    assert 0 < free < 2 * GIB


@pytest.fixture
def own_cgroup() -> Iterator[Path]:
    """Below the one that this process is in, where that may be made; bound to 1.5 GiB."""
    folder = next(filter(None, map(_made_below, _memory_cgroups())), None)
    if folder is None:
        pytest.skip("this process may not make a cgroup with a memory limit")
    yield folder
    folder.rmdir()


def _memory_cgroups() -> Iterator[Path]:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            yield Path("/sys/fs/cgroup", controllers) / path.lstrip("/")


def _made_below(parent: Path) -> Path | None:
    folder = parent / f"edgeserve-test-{os.getpid()}"
    with suppress(OSError):
        folder.mkdir()
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (folder / name).exists():
                (folder / name).write_text(str(3 * GIB // 2))
                return folder
        folder.rmdir()
    return None


@pytest.mark.slow
def test_a_real_cgroup_is_seen(own_cgroup: Path) -> None:
    procs = own_cgroup / "cgroup.procs"
    shell = f"echo $$ > {procs}; exec {sys.executable} -c '{TELL}'"
    told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)
    free, most = map(int, told.stdout.split())
    assert most == 3 * GIB // 2
    assert GIB < free < 3 * GIB // 2
