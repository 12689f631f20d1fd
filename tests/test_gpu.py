"""What a machine shows of NVIDIA's, and what of it PyTorch cannot use: from files and a program
that a test has written.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from edgeserve import gpu
from edgeserve.gpu import (
    NONE,
    Gpu,
    NvidiaDriver,
    Torch,
    driver_needed,
    first_shown,
    look_at_driver,
    parse_gpus,
    torch_of,
    why_not_capable,
    why_not_usable,
)

LINE = "NVIDIA GeForce RTX 3060, 580.95.05, 11909, GPU-6b1c2f00-aa, [N/A], 8.6"
SECOND = "NVIDIA GeForce RTX 4090, 580.95.05, 24000, GPU-77d10000-bb, [N/A], 8.9"
RTX_3060 = Gpu(
    name="NVIDIA GeForce RTX 3060", driver_version="580.95.05", capability=(8, 6),
    memory_free_bytes=11909 * 2**20, uuid="GPU-6b1c2f00-aa",
)  # fmt: skip
PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  "
    "(dvs-builder@U22-I3)  Wed Aug 27 17:32:14 UTC 2025\nGCC version:  gcc version 13.3.0\n"
)
CU130 = Torch(version="2.13.0+cu130", cuda="13.0")
CU126 = Torch(version="2.13.0+cu126", cuda="12.6")
CPU = Torch(version="2.13.0+cpu", cuda=None)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Where a kernel with NVIDIA's driver would tell its version; nothing is there yet."""
    return tmp_path / "version"


@pytest.fixture(autouse=True)
def device_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that is there, as on a box whose driver is loaded."""
    node = tmp_path / "nvidiactl"
    node.touch()
    monkeypatch.setattr(gpu, "DEVICE_NODES", (tmp_path / "dxg", node))
    return node


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program, which a test fills; until then there is none."""
    program = tmp_path / "nvidia-smi"
    monkeypatch.setattr(shutil, "which", lambda _: str(program) if program.exists() else None)
    return program


def says(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


# -- nvidia-smi's words


def test_a_gpu_is_read_with_its_free_memory_in_bytes() -> None:
    assert parse_gpus(f"{LINE}\n{SECOND}\n")[0] == RTX_3060


def test_a_name_with_a_comma_is_still_one_name() -> None:
    (found,) = parse_gpus(LINE.replace("NVIDIA GeForce RTX 3060", "Quadro, mobile"))

    assert found == replace(RTX_3060, name="Quadro, mobile")


@pytest.mark.parametrize("told", ["", "No devices were found\n", "\n", "name, driver_version\n"])
def test_what_is_no_gpu_is_none(told: str) -> None:
    assert parse_gpus(told) == []


@pytest.mark.parametrize(
    "told",
    [
        LINE.replace("11909", "[N/A]"),
        LINE.replace("11909", "[Insufficient Permissions]"),
        LINE.replace(
            "[N/A]", "Enabled"
        ),  # MIG: what is free of the card is not what is free of a part
    ],
)
def test_memory_that_is_not_told_is_zero_and_the_gpu_is_there(told: str) -> None:
    assert parse_gpus(told) == [replace(RTX_3060, memory_free_bytes=0)]


@pytest.mark.parametrize("told", [LINE.replace(", 8.6", ""), LINE.replace("8.6", "[N/A]")])
def test_an_older_driver_tells_no_capability(told: str) -> None:
    assert parse_gpus(told) == [replace(RTX_3060, capability=None)]


# -- which of several


@pytest.mark.parametrize(
    ("visible", "index"),
    [
        (None, 0),
        ("0", 0),
        ("1", 1),
        ("1,0", 1),
        (" 1 ", 1),
        ("GPU-77d1", 1),
        ("GPU-6b1c2f00-aa", 0),
    ],
)
def test_the_gpu_is_the_first_that_cuda_shows(visible: str | None, index: int) -> None:
    gpus = parse_gpus(f"{LINE}\n{SECOND}\n")

    assert first_shown(gpus, visible) == gpus[index]


@pytest.mark.parametrize("visible", ["2", "GPU-ffff", "gpu"])
def test_a_gpu_that_is_named_and_not_there_is_none(visible: str) -> None:
    assert first_shown(parse_gpus(f"{LINE}\n{SECOND}\n"), visible) is None


def test_a_part_of_a_card_has_the_cards_name_and_not_its_memory() -> None:
    assert first_shown([RTX_3060], "MIG-5a2d") == replace(RTX_3060, memory_free_bytes=0)


# -- looking


def test_the_program_is_asked_for_the_gpu(nvidia_smi: Path, proc: Path) -> None:
    says(nvidia_smi, f"[ \"$2\" = --format=csv,noheader,nounits ] && echo '{LINE}'")

    assert look_at_driver(None, kernel_driver=proc) == NvidiaDriver(
        version="580.95.05", gpu=RTX_3060
    )


OLD_CARD = LINE.replace("RTX 3060", "GT 1030").replace("8.6", "6.1")


@pytest.mark.parametrize(
    ("visible", "by_slot", "name"),
    [
        (None, False, "RTX 3060"),
        ("1", False, "GT 1030"),
        (None, True, "GT 1030"),
        ("1", True, "RTX 3060"),
    ],
)
def test_a_card_for_the_display_is_not_the_one_that_computes(
    visible: str | None, by_slot: bool, name: str, nvidia_smi: Path, proc: Path
) -> None:
    says(nvidia_smi, f"echo '{OLD_CARD}'; echo '{LINE}'")

    seen = look_at_driver(visible, by_slot=by_slot, kernel_driver=proc)

    assert seen.gpu is not None
    assert seen.gpu.name == f"NVIDIA GeForce {name}"
    assert bool(why_not_usable(seen, CU130)) == (name == "GT 1030")


def test_a_driver_that_does_not_know_a_word_is_asked_without_it(
    nvidia_smi: Path, proc: Path
) -> None:
    line = LINE.replace(", 8.6", "").replace("580.95.05", "470.256.02")
    says(
        nvidia_smi,
        f'case "$1" in *compute_cap*) echo not a valid field; exit 2;; esac; echo "{line}"',
    )

    seen = look_at_driver(None, kernel_driver=proc)

    assert seen.version == "470.256.02"
    assert seen.gpu is not None
    assert seen.gpu.capability is None


@pytest.mark.parametrize(("told", "version"), [(PROPRIETARY, "550.54.14"), (OPEN, "580.82.07")])
def test_the_kernel_tells_its_driver_where_nothing_else_does(
    told: str, version: str, nvidia_smi: Path, proc: Path
) -> None:
    proc.write_text(told)

    assert look_at_driver(None, kernel_driver=proc) == NvidiaDriver(version=version)


def test_windows_linux_has_a_gpu_and_no_driver_of_the_kernels(nvidia_smi: Path, proc: Path) -> None:
    says(nvidia_smi, f"echo '{LINE}'")

    seen = look_at_driver(None, kernel_driver=proc)

    assert (seen.is_there, seen.version) == (True, "580.95.05")


def test_a_container_without_the_card_sees_the_driver_and_no_file_of_it(
    nvidia_smi: Path, proc: Path, device_node: Path
) -> None:
    proc.write_text(OPEN)
    device_node.unlink()

    seen = look_at_driver(None, kernel_driver=proc)

    assert seen == NvidiaDriver(version="580.82.07", is_reachable=False)
    assert "docker run --gpus all" in why_not_usable(seen, CU130)
    assert "580 or newer" in why_not_usable(replace(seen, version="550.1"), CU130)


def test_a_file_that_nvidia_smi_makes_is_seen(
    nvidia_smi: Path, proc: Path, device_node: Path
) -> None:
    proc.write_text(OPEN)
    device_node.unlink()
    says(nvidia_smi, f"touch {device_node}; exit 9")

    assert look_at_driver(None, kernel_driver=proc).is_reachable


def test_what_the_program_says_instead_of_a_gpu_is_kept(nvidia_smi: Path, proc: Path) -> None:
    proc.write_text(PROPRIETARY)
    says(nvidia_smi, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")

    seen = look_at_driver(None, kernel_driver=proc)

    assert (seen.version, seen.gpu) == ("550.54.14", None)
    assert seen.said == "Failed to initialize NVML: Driver/library version mismatch"


def test_a_program_that_hangs_is_given_up(
    nvidia_smi: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "NVIDIA_SMI_S", 0.05)
    says(nvidia_smi, "exec sleep 1")

    seen = look_at_driver(None, kernel_driver=proc)

    assert not seen.is_there
    assert "does not answer" in seen.said


class UnkillableProcess(subprocess.Popen[str]):
    """As one that waits inside a driver."""

    started: ClassVar[list[UnkillableProcess]] = []

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.started.append(self)

    def kill(self) -> None:
        """It is told, and does not end."""


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(subprocess, "Popen", UnkillableProcess)
    yield
    for process in UnkillableProcess.started:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    UnkillableProcess.started.clear()


@pytest.mark.usefixtures("unkillable")
def test_so_is_one_that_cannot_be_ended(
    nvidia_smi: Path, proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "NVIDIA_SMI_S", 0.05)
    monkeypatch.setattr(gpu, "END_S", 0.05, raising=False)
    says(nvidia_smi, "exec sleep 8")
    start_s = time.monotonic()

    seen = look_at_driver(None, kernel_driver=proc)

    assert time.monotonic() - start_s < 6
    assert "does not answer" in seen.said


def test_a_program_that_cannot_be_started_is_told(nvidia_smi: Path, proc: Path) -> None:
    nvidia_smi.write_text("no program")
    nvidia_smi.chmod(0o755)

    assert "cannot be started: Exec format" in look_at_driver(None, kernel_driver=proc).said


def test_a_box_without_anything_has_no_driver(nvidia_smi: Path, proc: Path) -> None:
    assert look_at_driver(None, kernel_driver=proc) == NvidiaDriver()
    assert NvidiaDriver().version == NONE


@pytest.mark.parametrize("visible", ["", "-1", " ", "-1,0"])
def test_gpus_that_are_hidden_are_not_asked_for(visible: str, nvidia_smi: Path, proc: Path) -> None:
    says(nvidia_smi, f"echo '{LINE}'")
    proc.write_text(OPEN)

    assert look_at_driver(visible, kernel_driver=proc) == NvidiaDriver(
        version="580.82.07", is_hidden=True
    )


def test_a_variable_that_names_no_gpu_is_told(nvidia_smi: Path, proc: Path) -> None:
    says(nvidia_smi, f"echo '{LINE}'")

    seen = look_at_driver("3", kernel_driver=proc)

    assert (seen.version, seen.gpu) == ("580.95.05", None)
    assert seen.said == "CUDA_VISIBLE_DEVICES=3 names none of the 1 that there are"


# -- what PyTorch can use


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.13.0+cu130", Torch(version="2.13.0+cu130", cuda="13.0")),
        ("2.11.0+cu126", Torch(version="2.11.0+cu126", cuda="12.6")),
        ("2.13.0+cpu", Torch(version="2.13.0+cpu", cuda=None)),
        ("2.13.0", None),
        ("2.14.0a0+git1234cu", None),
        ("none", None),
    ],
)
def test_a_version_tells_the_cuda_that_it_is_for(version: str, expected: Torch | None) -> None:
    assert torch_of(version) == expected


@pytest.mark.parametrize(
    ("cuda", "driver"),
    [
        ("11.8", 450),
        ("12.0", 525),
        ("12.9", 525),
        ("13.0", 580),
        ("13.9", 580),
        ("14.0", 580),
        ("10.2", 450),
    ],
)
def test_every_minor_version_runs_on_the_major_ones_oldest_driver(cuda: str, driver: int) -> None:
    assert driver_needed(cuda) == driver


def seen(
    version: str, name: str = "RTX 3060", capability: tuple[int, int] | None = None
) -> NvidiaDriver:
    card = Gpu(name=name, driver_version=version, memory_free_bytes=0, capability=capability)
    return NvidiaDriver(version=version, gpu=card)


@pytest.mark.parametrize(
    ("driver", "torch"),
    [
        (seen("580.65.06"), CU130),
        (seen("615.1"), CU130),
        (seen("525.60.13"), CU126),
        (seen("580.65.06", capability=(8, 0)), CU130),
        (seen("580.65.06", capability=(12, 1)), CU130),
        (NvidiaDriver(), CPU),
        (NvidiaDriver(version="450.1", is_hidden=True), CU130),
    ],
)
def test_a_driver_that_is_new_enough_or_not_to_be_used_is_well(
    driver: NvidiaDriver, torch: Torch
) -> None:
    assert why_not_usable(driver, torch) == ""


@pytest.mark.parametrize("driver", [seen("550.54.14"), seen("579.99"), seen("525.1")])
def test_a_driver_that_is_too_old_is_told_with_both_cures(driver: NvidiaDriver) -> None:
    why = why_not_usable(driver, CU130)

    for word in (driver.version, "RTX 3060", "2.13.0+cu130", "CUDA 13.0", "driver 580 or newer"):
        assert word in why
    for cure in ("install a newer driver", "CUDA 12", "cu126", "--device cpu"):
        assert cure in why


@pytest.mark.parametrize(("version", "torch"), [("470.256.02", CU130), ("470.1", CU126)])
def test_no_older_build_is_offered_that_would_not_run_either(version: str, torch: Torch) -> None:
    why = why_not_usable(seen(version), torch)

    assert "install a newer driver, or say --device cpu" in why
    assert "cu126)" not in why


def test_a_build_without_cuda_on_a_box_with_a_driver_is_told() -> None:
    for driver in (seen("580.95.05"), NvidiaDriver(version="580.95.05")):
        why = why_not_usable(driver, CPU)
        assert "2.13.0+cpu is a build without CUDA" in why
        assert "--device cpu" in why
    assert why_not_usable(NvidiaDriver(version="580.1"), CPU, box="its box").startswith(
        "its box has"
    )


@pytest.mark.parametrize(
    ("driver", "cure"),
    [
        ("615.1", "install a build for CUDA 13, or"),
        ("550.54.14", "install a build for CUDA 12 (PyTorch's package index cu126), or"),
        ("470.256.02", "install driver 580 or newer and a build for CUDA 13, or"),
        ("390.1", "install driver 580 or newer and a build for CUDA 13, or"),
    ],
)
def test_the_build_that_is_offered_runs_with_the_driver(driver: str, cure: str) -> None:
    assert cure in why_not_usable(NvidiaDriver(version=driver), CPU)


def test_a_card_before_ampere_is_refused_by_its_capability() -> None:
    why = why_not_usable(seen("580.1", "Tesla T4", (7, 5)), CU130)

    assert "Tesla T4 has compute capability 7.5" in why
    assert "need 8.0" in why
    assert why == why_not_capable("Tesla T4", (7, 5))
    assert why_not_capable("A100", (8, 0)) == ""
    assert why_not_capable("Blackwell", (10, 0)) == ""


@pytest.mark.parametrize(("version", "torch"), [("580.1", CPU), ("550.1", CPU), ("550.1", CU130)])
def test_nobody_is_told_to_install_what_a_card_cannot_use(version: str, torch: Torch) -> None:
    why = why_not_usable(seen(version, "MX450", (7, 5)), torch)

    assert "MX450 has compute capability 7.5" in why
    assert "install" not in why
