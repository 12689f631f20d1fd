"""The kernels compile for cards that are not here, and fit them: an interpreter takes Python that
Triton's compiler refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgeserve.model.frame_table import PROGRAM_BYTES, PROGRAMS_PER_PROCESSOR, stages_for

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED_BYTES_MAX = 49 * 1024
"""Two programs side by side in the 100 KB of an RTX 3060's processor, which keeps 1 KB of each."""

SPILLS_MAX = 8
"""ptxas keeps a register of some kernels in memory though others are free; a tile that is too large
spills hundreds."""
DEEP_BYTES = 37 * 1024
"""Of a decode's program with three stages, by which `stages_for` chooses."""
PROCESSOR_BYTES = {80: 164 * 1024, 86: 100 * 1024, 90: 228 * 1024}


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 86, 90])
def test_every_kernel_compiles_for_a_card_and_leaves_room_for_another(
    capability: int, tmp_path: Path
) -> None:
    """And no program spills its registers, and the deep one has two blocks under way."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/kernels/compile_for.py"), str(capability)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path),
             "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout.splitlines()[-1])
    large = [each for each in kernels if each["stages"] == 2]
    assert {each["name"] for each in large if each["shared_bytes"] > SHARED_BYTES_MAX} == set()
    assert {each["name"] for each in kernels if each["spills"] > SPILLS_MAX} == set()
    assert_two_blocks_are_under_way([each for each in kernels if each["stages"] == 3], capability)


def assert_two_blocks_are_under_way(kernels: list[dict[str, Any]], capability: int) -> None:
    """Keys and values of the next block, two copies, while one is computed with."""
    assert len(kernels) == 2
    for each in kernels:
        assert (each["waits"][0], each["key_buffers"]) == (2, 2), each["name"]
        assert each["shared_bytes"] == DEEP_BYTES
    programs = PROCESSOR_BYTES[capability] // (DEEP_BYTES + PROGRAM_BYTES)
    deep = stages_for(PROCESSOR_BYTES[capability], 128, torch.float16) == 3
    assert (programs >= PROGRAMS_PER_PROCESSOR) == deep
