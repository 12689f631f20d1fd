"""What a machine says of itself, read from files and a program that a test has written."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgeserve import box
from edgeserve.box import NONE, Gpu, first_gpu, look_at_box, memory_free_bytes, parse_gpu
from edgeserve.errors import EdgeserveError

GPU = Gpu(
    name="NVIDIA GeForce RTX 3060", driver_version="550.54.14", memory_free_bytes=11909 * 2**20
)
ANSWER = "echo 'NVIDIA GeForce RTX 3060, 550.54.14, 11909'"


def test_the_first_gpu_of_several_is_read_with_its_free_memory_in_bytes() -> None:
    csv = "NVIDIA GeForce RTX 3060, 550.54.14, 11909\nNVIDIA A100, 550.54.14, 40000\n"

    assert parse_gpu(csv) == GPU


def test_a_name_with_a_comma_is_still_one_name() -> None:
    gpu = parse_gpu("Quadro, mobile, 470.1, 5\n")

    assert gpu == Gpu(name="Quadro, mobile", driver_version="470.1", memory_free_bytes=5 * 2**20)


@pytest.mark.parametrize("told", ["", "No devices were found\n", "A100, 550.1, [N/A]\n"])
def test_what_is_no_gpu_is_none(told: str) -> None:
    assert parse_gpu(told) is None


def _nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_the_program_is_asked_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _nvidia_smi(tmp_path, f'[ "$2" = --format=csv,noheader,nounits ] && {ANSWER}', monkeypatch)

    assert first_gpu() == GPU


@pytest.mark.parametrize("script", ["exit 9", f"sleep 1; {ANSWER}"], ids=["fails", "hangs"])
def test_a_driver_that_fails_or_hangs_is_no_driver(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "NVIDIA_SMI_S", 0.05)
    _nvidia_smi(tmp_path, script, monkeypatch)

    assert first_gpu() is None


def test_without_the_program_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _program: None)

    assert first_gpu() is None


def test_free_memory_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    700 kB\n")

    assert memory_free_bytes(meminfo) == 700 * 1024


def test_a_machine_that_does_not_say_its_memory_is_no_linux(tmp_path: Path) -> None:
    with pytest.raises(EdgeserveError, match="is this a Linux") as refused:
        memory_free_bytes(tmp_path / "meminfo")

    assert refused.value.exit_code == 3


def test_a_box_without_a_gpu_has_no_driver_and_the_versions_that_are_installed() -> None:
    here = look_at_box(Path(), None)

    assert here.python_version == ".".join(map(str, sys.version_info[:3]))
    assert here.torch_version == metadata.version("torch")
    assert here.driver_version == NONE
    assert here.memory_free_bytes > 2**20


def test_a_gpu_names_its_driver() -> None:
    assert look_at_box(Path(), GPU).driver_version == "550.54.14"


def test_a_package_that_is_missing_has_no_version() -> None:
    assert box._version_of("no-such-package-anywhere") == NONE


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, asked = shutil.disk_usage(tmp_path), list[Path]()

    def disk_usage(folder: Path) -> object:
        asked.append(folder)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    here = look_at_box(tmp_path / "models" / "llama", None)

    assert here.disk_free_bytes == usage.free
    assert asked == [tmp_path]
