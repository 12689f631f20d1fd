"""The generated code in edgeserve/wire/pb is what protos/ says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = ROOT / "edgeserve" / "wire" / "pb"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["worker_pb2.py", "worker_pb2.pyi"])
def test_the_generated_code_is_fresh(name: str, tmp_path: Path) -> None:
    protoc = [
        sys.executable, "-m", "grpc_tools.protoc", "-Iprotos/edgeserve/v1",
        f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "worker.proto",
    ]  # fmt: skip
    subprocess.run(protoc, cwd=ROOT, check=True, capture_output=True, timeout=60)

    fresh, committed = (tmp_path / name).read_text(), (COMMITTED / name).read_text()

    assert fresh == committed, "`make protos` makes it again"
