"""`make gpu-check` as far as it goes without a GPU: its refusal, and a rehearsal of its steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def gpu_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "benchmarks/gpu_check.py", *arguments],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_without_a_gpu_nothing_is_claimed() -> None:
    done = gpu_check()

    assert done.returncode == 1
    assert done.stderr.startswith("NO GPU")
    assert not done.stdout


@pytest.mark.slow
@pytest.mark.cluster
def test_a_rehearsal_goes_through_all_steps_and_says_what_it_is(tmp_path: Path) -> None:
    done = gpu_check("--rehearse", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "gpu_check.json").read_text())
    assert document["rehearsal"]
    assert document["faults"] == []
    assert document["stages"] == [[0, 2], [2, 4], [4, 6]]
    alone, three = document["rows"]
    assert (alone["batch"], alone["efficiency"], three["batch"]) == (1, 1.0, 3)
    assert all(row["tok_s"] > 0 < row["compute_ms"] < row["total_ms"] for row in (alone, three))
    assert "REHEARSAL" in done.stdout
