"""What Triton makes of launches for a card that is not here: registers, memory and instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.cuda.events import Launch
from tests.cuda.launches import to_json

ROOT = Path(__file__).resolve().parent.parent.parent
NEWEST = Path(sys.prefix) / "triton-newest"
"""Where `make` puts the newest Triton beside the one that the pinned PyTorch brings."""
REGISTERS = 64 * 1024  # of a processor, on every card since 2012
REGISTERS_STEP = 8  # in which a thread gets them


@dataclass(frozen=True, kw_only=True)
class Processor:
    """What the programs that run side by side on one processor share."""

    shared_bytes: int
    threads: int
    program_bytes: int = 1024
    """Of shared memory that each program takes for itself."""


PROCESSORS = {
    80: Processor(shared_bytes=164 * 1024, threads=2048),
    86: Processor(shared_bytes=100 * 1024, threads=1536),
    90: Processor(shared_bytes=228 * 1024, threads=2048),
}
"""By capability, from the CUDA C programming guide's table of technical specifications."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The code of a variant."""

    launch: Launch
    capability: int
    hash: str
    """Triton's, of all that the code depends on."""
    registers: int
    """Of each thread."""
    stack_bytes: int
    """Of each thread: what did not fit into registers, or is indexed by what only the run knows."""
    shared_bytes: int
    """Of each program."""
    instructions: Mapping[str, int]
    """How often each stands there, such as `LDG.E.128`."""

    @property
    def resident(self) -> int:
        """Programs that run side by side on a processor."""
        card, threads = PROCESSORS[self.capability], 32 * int(self.launch.options["num_warps"])
        registers = -(-self.registers // REGISTERS_STEP) * REGISTERS_STEP
        by_memory = card.shared_bytes // (self.shared_bytes + card.program_bytes)
        return min(REGISTERS // (registers * threads), by_memory, card.threads // threads)

    def starting(self, *prefixes: str) -> dict[str, int]:
        """Instructions of some kinds."""
        return {name: n for name, n in self.instructions.items() if name.startswith(prefixes)}

    def __str__(self) -> str:
        constants = {name: n for name, n in self.launch.arguments.items() if name.isupper()}
        return f"{self.launch.name} {constants} for sm_{self.capability}"


def compiled(
    launches: Sequence[Launch], capability: int, cache: Path, triton: Path | None = None
) -> tuple[str, list[Code]]:
    """Triton's version, and the code of each launch; `triton` is the folder of another one."""
    places = [str(triton)] if triton else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.cuda.compile_launches"],
        input=json.dumps({"capability": capability, "launches": list(map(to_json, launches))}),
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache),
             "PYTHONPATH": os.pathsep.join([*places, str(ROOT)])},
        cwd=ROOT, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    code = [
        Code(launch=launch, capability=capability, **each)
        for launch, each in zip(launches, told["code"], strict=True)
    ]
    return told["triton"], code
