"""What Triton makes of the CUDA path's launches, for cards that are not here: no number leaves the
registers, programs run side by side, and memory is read 16 bytes at a time.

Every shape is compiled in its checkpoint's dtype for the RTX 3060, and some of them in other dtypes
and for other cards; `make cuda-kernels` compiles every shape in every dtype for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import triton

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype, ModelSpec, Rotary
from tests.cuda.compiled import NEWEST, Code, compiled
from tests.cuda.events import Launch, Pointer
from tests.cuda.launches import Specialiser, Variant
from tests.cuda.recording import Load, load_and_record, whole

pytestmark = pytest.mark.slow

A100, RTX_3060, HOPPER = 80, 86, 90
LLAMA = SHAPES["llama-2-13b"]
KNOBS = replace(
    SHAPES["qwen3-8b"], hidden=1120, heads=14, kv_heads=2, head_dim=80, window_tokens=4096,
    qkv_bias=True, positions=Rotary(dims=32, theta=1e4),
)  # fmt: skip
"""No model: every knob, a group and a head that no power of two divides, a head that half turns."""
Wanted = list[tuple[ModelSpec, Dtype]]


def _in_own_dtype(dtype: Dtype) -> Wanted:
    return [(spec, dtype) for spec in SHAPES.values() if spec.checkpoint_dtype is dtype]


COMPILED: dict[str, tuple[int, Wanted]] = {
    "fp16 on an RTX 3060": (RTX_3060, _in_own_dtype(Dtype.FP16)),
    "bf16 on an RTX 3060": (RTX_3060, _in_own_dtype(Dtype.BF16)),
    "fp32 on an RTX 3060": (RTX_3060, [(LLAMA, Dtype.FP32)]),
    "int8 and int4 on an RTX 3060": (RTX_3060, [(LLAMA, Dtype.INT8), (LLAMA, Dtype.INT4)]),
    "an H200": (HOPPER, [(LLAMA, Dtype.FP16), (LLAMA, Dtype.INT8)]),
    "an A100": (A100, [(KNOBS, Dtype.FP16)]),
}  # fmt: skip
NEWEST_COMPILES: dict[str, tuple[int, Wanted]] = {
    "an RTX 3060": (RTX_3060, [(LLAMA, Dtype.INT8)]),
    "an H200": (HOPPER, [(KNOBS, Dtype.BF16)]),
}
if os.environ.get("CUDA_KERNELS") == "all":
    COMPILED = NEWEST_COMPILES = {
        f"{name} {dtype} for sm_{capability}": (capability, [(spec, dtype)])
        for capability in (RTX_3060, HOPPER)
        for name, spec in (*SHAPES.items(), ("knobs", KNOBS))
        for dtype in Dtype
    }
RESIDENT = {
    "_attend_part 16": 4,  # `PROGRAMS_PER_PROCESSOR` counts on it
    "_attend_part 64": 2,
    "_join_parts": 8,
    "_add_and_norm": 3,
    "_silu_times_up": 8,
    "_rotate_and_write": 16,
    "multiply_row": 16,
    "multiply_row_int4": 12,
    "multiply_tile": 3,  # `PROGRAMS_EACH` counts on it
    "multiply_tile_int4": 2,
    "add_parts": 8,
}
"""Programs that a processor has to have room for. Memory is far: without others to wait for, one
program leaves the processor idle for most of the time."""
WIDE = {
    "_attend_part": ("LDGSTS",),  # keys and values; queries and page numbers are few
    "_add_and_norm": ("LDG.", "STG."),
    "_silu_times_up": ("LDG.", "STG."),
    "multiply_row": ("LDG.E.EF",),  # the matrix, which nobody reads a second time
    "multiply_row_int4": ("LDG.E.EF",),
    "multiply_tile": ("LDGSTS.E.BYPASS",),
    "multiply_tile_int4": ("LDGSTS.E.BYPASS",),
    "add_parts": ("LDG.", "STG."),
}
"""Instructions that all have to move 16 bytes, for the kernels that read much. A head of 128
numbers is turned by one warp, four numbers for each thread; `_join_parts` reads few sums."""


@pytest.mark.parametrize("place", COMPILED)
def test_every_variant_compiles_into_good_code(place: str, tmp_path: Path) -> None:
    capability, wanted = COMPILED[place]
    launches = distinct(wanted)

    version, code = compiled(launches, capability, tmp_path)

    assert version == triton.__version__
    assert len({each.hash for each in code}) == len(launches), "not what Triton calls a variant"
    assert list(faults(code)) == []


@pytest.mark.skipif(not NEWEST.exists(), reason="no newer Triton; `make triton-newest` installs it")
@pytest.mark.parametrize("place", NEWEST_COMPILES)
def test_so_does_the_newest_triton(place: str, tmp_path: Path) -> None:
    capability, wanted = NEWEST_COMPILES[place]

    version, code = compiled(distinct(wanted), capability, tmp_path, NEWEST)

    assert version != triton.__version__
    assert list(faults(code)) == []


def distinct(wanted: Wanted) -> list[Launch]:
    """A launch of each variant."""
    specialiser, found = Specialiser(), dict[Variant, Launch]()
    for spec, dtype in wanted:
        stage = load_and_record(Load(spec=spec, stage=whole(spec, 2), dtype=dtype))
        for each in stage.device.events:
            if isinstance(each, Launch):
                found.setdefault(specialiser.variant(each), each)
    return list(found.values())


def faults(code: Iterable[Code]) -> Iterator[str]:
    for each in code:
        if each.stack_bytes:
            yield f"{each} keeps {each.stack_bytes} bytes a thread outside of registers"
        if each.resident < RESIDENT[_kind(each.launch)]:
            yield (
                f"{each} has {each.registers} registers and {each.shared_bytes} bytes of shared "
                f"memory: {each.resident} programs side by side, not {RESIDENT[_kind(each.launch)]}"
            )
        yield from _narrow(each)


def _narrow(code: Code) -> Iterator[str]:
    if _is_attention_in_fp32(code.launch):
        return
    for kind in WIDE.get(code.launch.name, ()):
        found = code.starting(kind)
        if not found or any(not name.endswith(".128") for name in found):
            yield f"{code} moves less than 16 bytes at a time: {found}"


def _is_attention_in_fp32(launch: Launch) -> bool:
    """Which copies nothing ahead into shared memory."""
    query = launch.arguments.get("q_ptr")
    return isinstance(query, Pointer) and query.tensor.dtype is torch.float32


def _kind(launch: Launch) -> str:
    if launch.name == "_attend_part":
        return f"{launch.name} {launch.arguments['BLOCK_ROWS']}"
    return launch.name
