"""What a newcomer types first, on whatever box."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make")


def told_by_up(*variables: str, environment: dict[str, str] | None = None) -> str:
    """The command that it would run."""
    done = subprocess.run(
        [str(MAKE), "--dry-run", "--no-print-directory", "up", *variables],
        capture_output=True, text=True, check=True, cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    return done.stdout.splitlines()[-1]


def test_the_first_cluster_needs_no_card_and_minds_none() -> None:
    """An older driver, an older card, or a PyTorch without CUDA beside one would refuse `auto`."""
    assert "edgeserve up --device cpu --prompt" in told_by_up()


def test_a_card_is_taken_by_one_word() -> None:
    assert "--device auto" in told_by_up("DEVICE=auto")
    assert "--device cuda" in told_by_up(environment={"EDGESERVE_DEVICE": "cuda"})
