"""Compiles every kernel for a card that is not here, at the sizes of Llama-2 13B and of models with
every knob: `python tests/kernels/compile_for.py 86`. Prints what came out, as JSON.

A program of its own: a process whose Triton interprets cannot compile.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from edgeserve.model.frame_table import block_keys, prompt_queries, tile_queries
from edgeserve.model.kernels import attention, gate, norm, rotary

POINTERS_TO = {"partial": "fp32", "sums": "fp32", "cos": "fp32", "sin": "fp32"}
INTEGERS = {"parts", "q_stride", "pages_stride"}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True, kw_only=True)
class Heads:
    kv_heads: int
    group: int
    dim: int
    window: int = 0


LLAMA = Heads(kv_heads=40, group=1, dim=128)
GROUPED = Heads(kv_heads=8, group=7, dim=80, window=4096)
WIDE = Heads(kv_heads=2, group=4, dim=256)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a kernel is compiled for."""

    name: str
    kernel: Any
    warps: int
    constants: dict[str, Any]
    dtype: str = "fp16"
    stages: int = 2


@dataclass(frozen=True, kw_only=True)
class Compiled:
    name: str
    stages: int
    shared_bytes: int
    spills: int
    """Instructions that move a register to a thread's own memory, or back."""
    waits: list[int]
    """How many copies may be under way still where the loop over keys waits for one."""
    key_buffers: int
    """Blocks of keys that there is room for in shared memory; 0 if none is copied there."""


def main() -> None:
    capability = int(sys.argv[1])
    found = [asdict(compiled(each, capability)) for each in launches()]
    sys.stdout.write(json.dumps(found) + "\n")


def launches() -> Iterator[Launch]:
    for dtype in ("fp16", "bf16"):
        for heads in (LLAMA, GROUPED):
            yield attend(heads, 16, dtype)
            yield attend(heads, 64, dtype, one_part=True)
        yield from others(dtype)
    yield attend(LLAMA, 16, "fp16", one_part=True)
    yield attend(LLAMA, 16, "fp16", stages=3)
    yield attend(GROUPED, 16, "bf16", stages=3)
    for heads, dtype in ((WIDE, "fp16"), (LLAMA, "fp32"), (WIDE, "fp32")):
        yield attend(heads, 16, dtype)
        yield attend(heads, prompt_queries(heads.dim, DTYPES[dtype]), dtype, one_part=True)


def attend(
    heads: Heads, queries: int, dtype: str, *, one_part: bool = False, stages: int = 2
) -> Launch:
    rows = tile_queries(heads.group, queries)
    constants = {
        "KV_HEADS": heads.kv_heads, "GROUP": heads.group, "DIM": heads.dim, "WINDOW": heads.window,
        "BLOCK_ROWS": rows, "BLOCK_KEYS": block_keys(heads.dim, DTYPES[dtype]),
        "BLOCK_DIM": triton.next_power_of_2(heads.dim), "ONE_PART": one_part,
    }  # fmt: skip
    unused = ("partial_ptr", "sums_ptr") if one_part else ("found_ptr",)
    return Launch(
        name=f"attend heads of {heads.dim} {dtype} queries {rows} stages {stages} one {one_part}",
        kernel=attention._attend_part, warps=4, constants=constants | dict.fromkeys(unused),
        dtype=dtype, stages=1 if dtype == "fp32" else stages,
    )  # fmt: skip


def others(dtype: str) -> Iterator[Launch]:
    turns = {"HEADS": 40, "KV_HEADS": 40, "DIM": 128, "HALF": 64, "REST": 0}
    partly = {"HEADS": 8, "KV_HEADS": 2, "DIM": 80, "HALF": 16, "REST": 48}
    normed = {"SIZE": 5120, "BLOCK": 8192}
    for kernel, warps, constants in (
        (attention._join_parts, 4, {"DIM": 128, "BLOCK_DIM": 128}),
        (norm._add_and_norm, 8, normed | {"HAS_DELTA": True}),
        (norm._add_and_norm, 8, normed | {"HAS_DELTA": False}),
        (gate._silu_times_up, 4, {"SIZE": 13824, "BLOCK": gate.BLOCK}),
        (rotary._rotate_and_write, 1,
         turns | {"BLOCK_HALF": 64, "BLOCK_REST": 1, "HAS_NORM": False}),
        (rotary._rotate_and_write, 1,
         partly | {"BLOCK_HALF": 16, "BLOCK_REST": 64, "HAS_NORM": True}),
    ):  # fmt: skip
        name = f"{kernel.fn.__name__} {dtype} {constants}"
        yield Launch(name=name, kernel=kernel, warps=warps, constants=constants, dtype=dtype)


def compiled(launch: Launch, capability: int) -> Compiled:
    names, constants = launch.kernel.arg_names, launch.constants
    kinds = {
        name: "constexpr" if name in constants else kind_of(name, launch.dtype) for name in names
    }
    pointers = [(at,) for at, name in enumerate(names) if kinds[name].startswith("*")]
    source = ASTSource(
        fn=launch.kernel,
        signature=kinds,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={at: [["tt.divisibility", 16]] for at in pointers},
    )
    options = {
        "num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True,
    }  # fmt: skip
    target = GPUTarget("cuda", capability, 32)
    kernel = triton.compile(source, target=target, options=options)
    keys, dim = constants.get("BLOCK_KEYS"), constants.get("BLOCK_DIM")
    buffers = re.findall(rf"local_alloc .*memdesc<(\d+)x{keys}x{dim}x", kernel.asm["ttgir"])
    return Compiled(
        name=launch.name,
        stages=launch.stages,
        shared_bytes=int(kernel.metadata.shared),
        spills=spills(kernel.asm["cubin"]),
        waits=[int(n) for n in re.findall(r"async_wait .*\bnum = (\d+)", kernel.asm["ttgir"])],
        key_buffers=int(buffers[0]) if buffers else 0,
    )


def spills(cubin: bytes) -> int:
    """None of the kernels has arrays of its own in that memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "-sass", file.name]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return len(re.findall(r"\b(?:LDL|STL)\b", told.stdout))


def kind_of(name: str, dtype: str) -> str:
    if not name.endswith("_ptr"):
        return "i32" if name in INTEGERS else "fp32"
    what = name.removesuffix("_ptr")
    return "*i32" if what in {"rows", "pages"} else "*" + POINTERS_TO.get(what, dtype)


if __name__ == "__main__":
    main()
