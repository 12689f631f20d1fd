"""What ends a worker's start before it opens a port."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgeserve.errors import BadSettings
from edgeserve.worker.serve import check_toolchain

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
from edgeserve.cli import main
sys.exit(main(["worker"]))
"""


def test_a_gpus_worker_without_a_compiler_ends_before_it_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "/no/such/compiler")

    with pytest.raises(BadSettings, match="/no/such/compiler.*python3-dev.*--device cpu"):
        check_toolchain()


@pytest.mark.slow
def test_a_worker_without_pytorch_ends_with_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False
    )

    assert done.returncode == 3
    assert done.stderr.startswith("edgeserve: a worker cannot be loaded")
    assert "install edgeserve[worker]" in done.stderr
    assert "Traceback" not in done.stderr
