"""The shape and the questions that every system of a comparison gets, and what figures are called.

A system gives its figures by these names, so that tables and ratios need to know no system.
"""

from __future__ import annotations

MODEL = "bench-1b"
"""22 layers, hidden 2048, 32 heads, 4 key and value heads, feed-forward 5632, vocabulary 32000."""
PROMPT_TOKENS = 128
DECODE_STEPS = 64
DECODE_BATCHES = (1, 8, 16)
PREFILL_TOKENS = 512
CONTEXTS = (16, 1024)
PARTS = ("decode", "prefill", "int8", "context", "memory")

Figures = dict[str, float]
"""By name. Rates in tokens per second unless the name says otherwise."""


def decode(batch: int) -> str:
    """Tokens per second of all sequences together, prompts not counted."""
    return f"decode, batch {batch}"


def prefill() -> str:
    """Prompt tokens per second until the first token is there."""
    return f"prefill, {PREFILL_TOKENS} tokens"


def context_ms(tokens: int) -> str:
    """Between two tokens of one sequence that has so many tokens before it."""
    return f"token after {tokens} tokens, ms"


def memory_peak(stage: int) -> str:
    return f"worker {stage}, peak RSS, MB"


def memory_bound(stage: int) -> str:
    return f"worker {stage}, slice + pages + 600, MB"
