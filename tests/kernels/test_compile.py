"""The kernels compile for cards that are not here, and fit them: an interpreter takes Python that
Triton's compiler refuses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED_BYTES_MAX = 49 * 1024
"""Two programs side by side in the 100 KB of an RTX 3060's processor, which keeps 1 KB of each."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 86, 90])
def test_every_kernel_compiles_for_a_card_and_leaves_room_for_another(
    capability: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/kernels/compile_for.py"), str(capability)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path),
             "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=110,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert max(json.loads(done.stdout.splitlines()[-1])) <= SHARED_BYTES_MAX
