"""Compiles every kernel for a card that is not here, at the sizes of Llama-2 13B and of a model
with every knob: `python tests/kernels/compile_for.py 86`. Prints shared memory in bytes, as JSON.

A program of its own: a process whose Triton interprets cannot compile.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from edgeserve.model.kernels import attention, gate, norm, rotary

POINTERS_TO = {"partial": "fp32", "sums": "fp32", "cos": "fp32", "sin": "fp32"}
INTEGERS = {"parts", "q_stride", "pages_stride"}
_HEADS: dict[str, Any] = {"KV_HEADS": 40, "GROUP": 1, "DIM": 128, "WINDOW": 0}
_SHARED: dict[str, Any] = {"KV_HEADS": 8, "GROUP": 7, "DIM": 80, "WINDOW": 4096}
_BLOCKS: dict[str, Any] = {"BLOCK_KEYS": attention.BLOCK_KEYS, "BLOCK_DIM": 128}
_TURNS: dict[str, Any] = {"HEADS": 40, "KV_HEADS": 40, "DIM": 128, "HALF": 64, "REST": 0}
_PARTLY: dict[str, Any] = {"HEADS": 8, "KV_HEADS": 2, "DIM": 80, "HALF": 16, "REST": 48}
KERNELS: list[tuple[Any, int, dict[str, Any]]] = [
    (attention._attend_part, 4, _HEADS | _BLOCKS | {"BLOCK_ROWS": 16}),
    (attention._attend_part, 4, _HEADS | _BLOCKS | {"BLOCK_ROWS": 64}),
    (attention._attend_part, 4, _SHARED | _BLOCKS | {"BLOCK_ROWS": 16}),
    (attention._attend_part, 4, _SHARED | _BLOCKS | {"BLOCK_ROWS": 64}),
    (attention._join_parts, 4, {"DIM": 128, "BLOCK_DIM": 128}),
    (norm._add_and_norm, 8, {"SIZE": 5120, "BLOCK": 8192, "HAS_DELTA": True}),
    (norm._add_and_norm, 8, {"SIZE": 5120, "BLOCK": 8192, "HAS_DELTA": False}),
    (gate._silu_times_up, 4, {"SIZE": 13824, "BLOCK": gate.BLOCK}),
    (rotary._rotate_and_write, 1,
     _TURNS | {"BLOCK_HALF": 64, "BLOCK_REST": 1, "HAS_NORM": False}),
    (rotary._rotate_and_write, 1,
     _PARTLY | {"BLOCK_HALF": 16, "BLOCK_REST": 64, "HAS_NORM": True}),
]  # fmt: skip


def main() -> None:
    capability = int(sys.argv[1])
    shared = [compiled(*kernel, dtype, capability) for kernel in KERNELS for dtype in DTYPES]
    sys.stdout.write(json.dumps(shared) + "\n")


DTYPES = ("fp16", "bf16")


def compiled(kernel: Any, warps: int, sizes: dict[str, Any], dtype: str, capability: int) -> int:
    """Shared memory of one program, in bytes."""
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in sizes else kind_of(name, dtype) for name in names}
    pointers = [(at,) for at, name in enumerate(names) if kinds[name].startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs={(names.index(name),): value for name, value in sizes.items()},
        attrs={at: [["tt.divisibility", 16]] for at in pointers},
    )
    options = {"num_warps": warps, "num_stages": 2, "enable_fp_fusion": True}
    target = GPUTarget("cuda", capability, 32)
    return int(triton.compile(source, target=target, options=options).metadata.shared)


def kind_of(name: str, dtype: str) -> str:
    if not name.endswith("_ptr"):
        return "i32" if name in INTEGERS else "fp32"
    what = name.removesuffix("_ptr")
    return "*i32" if what in {"rows", "pages"} else "*" + POINTERS_TO.get(what, dtype)


if __name__ == "__main__":
    main()
