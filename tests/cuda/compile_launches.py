"""Compiles launches for cards that are not here: a program of its own, since a process whose Triton
interprets cannot compile, and since another Triton is another process.

Reads a capability and launches as JSON, and writes what `cuobjdump` says of the code of each.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton

from tests.cuda.events import Launch
from tests.cuda.launches import AbsentDriver, all_kernels, driver_active, from_json, warm_up

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/ +(?:@!?U?P\w+ +)?([A-Z][A-Z0-9_.]*)")


def main() -> None:
    asked = json.load(sys.stdin)
    launches = [from_json(each) for each in asked["launches"]]
    code = [compiled(each, asked["capability"]) for each in launches]
    json.dump({"triton": triton.__version__, "code": code}, sys.stdout)


def compiled(launch: Launch, capability: int) -> dict[str, Any]:
    with driver_active(AbsentDriver(capability)):
        kernel = warm_up(all_kernels()[launch.kernel], launch)
    return {
        "hash": kernel.hash,
        "shared_bytes": kernel.metadata.shared,
        **looked_at(kernel.asm["cubin"]),
    }


def looked_at(cubin: bytes) -> dict[str, Any]:
    """Registers and bytes of stack of a thread, and how often each instruction is there."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [CUOBJDUMP, "-res-usage", "-sass", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    usage = USAGE.search(shown)
    assert usage is not None, shown
    return {
        "registers": int(usage[1]),
        "stack_bytes": int(usage[2]) + int(usage[4]),
        "instructions": Counter(INSTRUCTION.findall(shown)),
    }


if __name__ == "__main__":
    main()
