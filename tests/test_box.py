"""What a machine says of itself, read from files that a test has written."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from edgeserve.box import installed_torch, look_at_box, memory_free_bytes
from edgeserve.errors import EdgeserveError
from edgeserve.gpu import NONE, Torch


def test_free_memory_is_what_the_kernel_calls_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemFree:  100 kB\nMemAvailable:    700 kB\n")

    assert memory_free_bytes(meminfo) == 700 * 1024


def test_a_machine_that_does_not_say_its_memory_is_no_linux(tmp_path: Path) -> None:
    with pytest.raises(EdgeserveError, match="is this a Linux") as refused:
        memory_free_bytes(tmp_path / "meminfo")

    assert refused.value.exit_code == 3


def test_a_box_without_a_gpu_has_no_driver_and_the_versions_that_are_installed() -> None:
    here = look_at_box(Path())

    assert here.python_version == ".".join(map(str, sys.version_info[:3]))
    assert here.torch_version == torch.__version__
    assert here.driver_version == NONE
    assert here.memory_free_bytes > 2**20


def test_a_driver_is_told_as_it_was_seen() -> None:
    assert look_at_box(Path(), "550.54.14").driver_version == "550.54.14"


def test_pytorch_is_known_without_loading_it() -> None:
    assert installed_torch() == Torch(version=torch.__version__, cuda=torch.version.cuda)


CUDA_BUILD = (
    "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
)
OLD_FORM = "__version__ = '2.4.0'\ncuda = '12.4'\n"
CPU_BUILD = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\n"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (CUDA_BUILD, Torch(version="2.13.0+cu130", cuda="13.0")),
        (OLD_FORM, Torch(version="2.4.0", cuda="12.4")),
        (CPU_BUILD, Torch(version="2.13.0+cpu", cuda=None)),
        (None, Torch(version="2.13.0", cuda=None)),
    ],
)
def test_a_build_is_what_pytorch_s_own_file_says_and_not_its_index(
    file: str | None, expected: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file is not None:
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "version.py").write_text(file)
    info = tmp_path / "torch-2.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    monkeypatch.setattr(metadata, "distribution", lambda _: metadata.PathDistribution(info))

    assert installed_torch() == expected


def test_a_box_without_pytorch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    assert installed_torch() == Torch(version=NONE, cuda=None)


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, asked = shutil.disk_usage(tmp_path), list[Path]()

    def disk_usage(folder: Path) -> object:
        asked.append(folder)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    here = look_at_box(tmp_path / "models" / "llama")

    assert here.disk_free_bytes == usage.free
    assert asked == [tmp_path]
