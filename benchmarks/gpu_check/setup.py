"""What is measured, on which sizes, and how long each section may take.

A section is one module of this folder with a function `measure(setup, argument)` that yields rows.
Three setups know the same sections: `FULL`, `QUICK`, and `REHEARSAL`, which runs on a CPU with
small sizes so that a mistake in a section is found before a card is at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

WORKERS = 3
MEMORY_BYTES = 11_900_000_000
"""What CUDA shows of an RTX 3060, less the little that its driver keeps."""
LEAST_S = 8.0
"""A section that has less time left than this is not started: it would only start Python."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    name: str
    model: str
    device: str
    """'cuda', or 'cpu' for the rehearsal."""
    memory_bytes: int
    """Of each worker."""
    batches: tuple[int, ...]
    """End to end, in fp16."""
    prompt: int
    tokens: int
    rows: tuple[int, ...]
    """Of a linear layer's input, the most important first."""
    contexts: tuple[int, ...]
    """Keys that attention reads."""
    families: tuple[str, ...]
    """Whose tokens are compared."""
    copies: int
    """Of a layer inside one CUDA graph."""
    budget_s: float
    """For all sections together."""

    @property
    def is_rehearsal(self) -> bool:
        return self.device == "cpu"


@dataclass(frozen=True, kw_only=True)
class Section:
    name: str
    module: str
    argument: str = ""
    full_s: float
    """The most it may take; the rest of the budget if that is less."""
    quick_s: float
    """The same with QUICK; 0 leaves it out."""
    is_rehearsed: bool = True
    """Not one that does what another does with another argument, and not the tests, which have
    their own ways to run on a CPU."""

    def limit_s(self, setup: Setup) -> float:
        """0 leaves it out."""
        if setup.is_rehearsal:
            return self.full_s if self.is_rehearsed else 0.0
        return self.quick_s if setup is QUICK else self.full_s


FULL = Setup(
    name="full", model="llama-2-13b", device="cuda", memory_bytes=MEMORY_BYTES,
    batches=(1, 8, 2, 4, 24), prompt=32, tokens=128, rows=(1, 8, 2, 4, 16, 64),
    contexts=(1024, 4096), copies=20, budget_s=460.0,
    families=("llama2", "qwen3", "llama3", "mistral", "qwen2", "tied"),
)  # fmt: skip
QUICK = Setup(
    name="quick", model="llama-2-13b", device="cuda", memory_bytes=MEMORY_BYTES,
    batches=(1, 8), prompt=32, tokens=64, rows=(1, 8), contexts=(1024,), copies=20,
    budget_s=170.0, families=("llama2", "qwen3"),
)  # fmt: skip
REHEARSAL = Setup(
    name="rehearsal", model="demo", device="cpu", memory_bytes=10**9,
    batches=(1, 2), prompt=4, tokens=6, rows=(1, 2), contexts=(20,), copies=1,
    budget_s=100.0, families=("llama2",),
)  # fmt: skip
SETUPS = {each.name: each for each in (FULL, QUICK, REHEARSAL)}

SECTIONS = (
    Section(name="card", module="card", full_s=40, quick_s=25),
    Section(name="pipeline fp16", module="pipeline", argument="fp16", full_s=110, quick_s=70),
    Section(
        name="pipeline int8", module="pipeline", argument="int8", full_s=60, quick_s=40,
        is_rehearsed=False,
    ),
    Section(name="linear", module="linear", full_s=90, quick_s=40),
    Section(name="tokens", module="tokens", full_s=100, quick_s=40),
    Section(name="memory fp16", module="memory", argument="fp16", full_s=60, quick_s=40),
    Section(
        name="memory int8", module="memory", argument="int8", full_s=50, quick_s=0,
        is_rehearsed=False,
    ),
    Section(name="attention", module="attention", full_s=50, quick_s=20),
    Section(name="tests", module="suite", full_s=240, quick_s=0, is_rehearsed=False),
)  # fmt: skip
"""What matters most comes first: whatever ends the run leaves it. No section needs another one."""
