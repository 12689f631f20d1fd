"""Whether a box could build what Triton needs, with compilers that a test has written, and with
this machine's own.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from edgeserve.config import gpu_environment
from edgeserve.toolchain import why_no_kernels

WORKS = 'while [ $# -gt 1 ]; do shift; done; echo built > "$1"'
"""A compiler whose last argument is the file to write."""


def compiler(folder: Path, script: str, name: str = "gcc") -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("name", ["gcc", "clang"])
def test_a_compiler_that_triton_would_find_is_enough(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler(tmp_path, WORKS, name)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(shutil, "which", _only_in(tmp_path))

    assert why_no_kernels("", tmp_path) == ""


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", _only_in(tmp_path))

    why = why_no_kernels("", tmp_path)

    assert "neither gcc nor clang" in why
    assert "apt install gcc libc6-dev python3-dev" in why


def test_a_header_that_is_missing_is_named(tmp_path: Path) -> None:
    missing = "fatal error: Python.h: No such file or directory"
    gcc = compiler(
        tmp_path, f'echo "$1:2:10: {missing}" >&2; echo "compilation terminated."; exit 1'
    )

    why = why_no_kernels(str(gcc), tmp_path)

    assert f"(small.c:2:10: {missing})" in why, "in one line, and without the folder that is gone"
    assert "python3-dev" in why


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "exit code 3"),
        ("exit 0", "exit code 0"),
        ("echo disk full >&2; exit 1", "disk full"),
    ],
)
def test_a_compiler_that_makes_nothing_is_none(script: str, said: str, tmp_path: Path) -> None:
    assert f"({said})" in why_no_kernels(str(compiler(tmp_path, script)), tmp_path)


def test_the_compiler_of_the_environment_goes_first_even_if_it_is_not_there(tmp_path: Path) -> None:
    why = why_no_kernels("/no/such/cc", tmp_path)

    assert "/no/such/cc" in why
    assert "name another compiler in CC" in why


def test_a_cache_that_cannot_be_written_is_named_with_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc = compiler(tmp_path, WORKS)
    monkeypatch.setattr(os, "access", lambda _path, mode: mode == os.F_OK)

    why = why_no_kernels(str(gcc), tmp_path / "kernels")

    assert "TRITON_CACHE_DIR" in why
    assert f"{tmp_path / 'kernels'} is not writable" in why


def test_a_cache_from_which_nothing_may_run_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcc = compiler(tmp_path, WORKS)
    mounted = os.statvfs_result((*os.statvfs(tmp_path)[:8], os.ST_NOEXEC, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: mounted)

    why = why_no_kernels(str(gcc), tmp_path)

    assert "mounted with noexec" in why
    assert "TRITON_CACHE_DIR" in why


def test_a_cache_that_is_not_there_yet_is_made_by_triton(tmp_path: Path) -> None:
    cache = tmp_path / "a" / "b"

    assert why_no_kernels(str(compiler(tmp_path, WORKS)), cache) == ""
    assert not cache.exists(), "looking makes nothing"


@pytest.mark.skipif(
    not (
        shutil.which("gcc")
        and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists()
    ),
    reason="no compiler, or no headers",
)
def test_this_machines_own_compiler_does(tmp_path: Path) -> None:
    assert why_no_kernels("", tmp_path) == ""


def test_cudas_and_tritons_variables_are_read_as_they_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "TRITON_CACHE_DIR",
        "TRITON_HOME",
        "CC",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
    ):
        monkeypatch.delenv(name, raising=False)
    bare = gpu_environment()
    monkeypatch.setenv("TRITON_HOME", "/fast")
    at_home = gpu_environment().kernel_cache
    monkeypatch.setenv("TRITON_CACHE_DIR", "/cache/triton")
    monkeypatch.setenv("CC", "clang-19")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    told = gpu_environment()

    assert (bare.compiler, bare.visible_devices) == ("", None)
    assert (bare.counts_by_slot, told.counts_by_slot) == (False, True)
    assert bare.kernel_cache == Path("~/.triton/cache").expanduser()
    assert at_home == Path("/fast/.triton/cache")
    assert (told.compiler, told.visible_devices) == ("clang-19", ""), (
        "hidden is not the same as all"
    )
    assert told.kernel_cache == Path("/cache/triton")


def _only_in(folder: Path) -> object:
    def which(program: str) -> str | None:
        found = folder / program
        return str(found) if found.exists() else None

    return which
