"""Linear layers that read their matrix as it is held: 8 or 4 bits a number, or 16.

Up to 16 rows of x take as long as reading the matrix does, so nothing is widened in memory. Which
kernel and which block sizes serve how many rows is a short table: a worker compiles what is in it
and nothing else. Results are the same each time, since all sums have a fixed order; with another
number of rows, or on a card with more processors, it may be another order.

    T rows of x, R rows and C columns of the matrix, B bytes and G groups of a row, P parts
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from edgeserve.model.kernels.linear_row import multiply_row, multiply_row_int4
from edgeserve.model.kernels.linear_tiles import add_parts, multiply_tile, multiply_tile_int4

FAILURES = (RuntimeError, TritonError)
"""What is raised where a kernel cannot be compiled, or does not fit the card."""
CHUNK = 32
"""Columns of int4 that lie in 16 bytes, which a thread reads at once: the first 16 in the lower
halves of the bytes, the others in the upper, so that the x of either lies in one piece."""
GROUP_STEP = 16
"""The groups of int4 are multiples of it, or the whole row."""


@dataclass(frozen=True, kw_only=True)
class LinearTile:
    """What a program of several rows computes, and reads in one step."""

    tokens: int
    rows: int
    columns: int
    """Of a matrix in 8 or 16 bits."""
    columns_int4: int
    warps: int


ROW_WARPS = 1
"""Threads of one warp need not wait for each other in the loop."""
ROW_ROWS = 4  # that share the x in a thread's registers
ROW_RUN_BYTES = 16  # a thread's load; 32 threads lie side by side
TILES = (
    LinearTile(tokens=16, rows=32, columns=128, columns_int4=128, warps=2),
    LinearTile(tokens=32, rows=64, columns=64, columns_int4=128, warps=4),
    LinearTile(tokens=64, rows=64, columns=64, columns_int4=64, warps=4),
)
"""The smallest that holds all rows of x is taken, or several of the last. Up to 16 rows of x each
number of the matrix is made wider once, by the one warp that multiplies it, and read by 128-bit
loads. Above, tensor cores have more to do than memory."""
STAGES = 3  # of a tile's steps, two are on their way while one is multiplied
PROGRAMS_EACH = 3
"""For each of the card's processors: with 8 KB on their way for each they keep an H200 busy, which
needs 25 KB, and an RTX 3060, which needs 8 KB."""
PARTS_MAX = 8
PART_COLUMNS = 512  # a part of the columns is no shorter
JOIN_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class _Unpacked:
    weight_RC: Tensor
    bias_R: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.weight_RC)

    @property
    def columns(self) -> int:
        return self.weight_RC.shape[1]


@dataclass(frozen=True, kw_only=True)
class HalfMatrix(_Unpacked):
    """In the dtype of x, as PyTorch holds it."""


@dataclass(frozen=True, kw_only=True)
class Int8Matrix(_Unpacked):
    """Of int8."""

    scale_R: Tensor
    """fp32: what 1 is worth in each row."""


@dataclass(frozen=True, kw_only=True)
class Int4Matrix:
    weight_RB: Tensor
    """uint8, two numbers in each, as `pack_int4` lays them."""
    pair_RG: Tensor
    """int32: two bf16 numbers, what one step is worth in each group and what 8 stands for. One load
    brings both."""
    columns: int
    group: int
    bias_R: Tensor | None

    @property
    def rows(self) -> int:
        return len(self.weight_RB)


Matrix = HalfMatrix | Int8Matrix | Int4Matrix


def pack_int4(whole_RC: Tensor) -> Tensor:
    """uint8 [R, B] of whole numbers from 0 to 15: 16 bytes for each 32 columns that are begun."""
    rows, columns = whole_RC.shape
    padded_RC = torch.nn.functional.pad(whole_RC.to(torch.uint8), (0, -columns % CHUNK), value=8)
    halves = padded_RC.view(rows, -1, 2, CHUNK // 2)
    return (halves[:, :, 0] | halves[:, :, 1] << 4).view(rows, -1)


def multiply(x_TC: Tensor, matrix: Matrix, processors: int) -> Tensor:
    """[T, R] in the dtype of x. `processors` are the card's."""
    out_TR = x_TC.new_empty((len(x_TC), matrix.rows))
    multiply_into(out_TR, x_TC, matrix, processors)
    return out_TR


def multiply_into(out_TR: Tensor, x_TC: Tensor, matrix: Matrix, processors: int) -> None:
    assert x_TC.is_contiguous()
    assert out_TR.is_contiguous()
    assert x_TC.shape[1] == matrix.columns
    if len(x_TC) == 1:
        _launch_row(x_TC, matrix, out_TR)
    elif len(x_TC) > 1:
        _multiply_tiles(x_TC, matrix, out_TR, processors)


def linear(matrix: Matrix, processors: int) -> Callable[[Tensor], Tensor]:
    """x [T, C] to [T, R] on the card that holds the matrix."""
    if isinstance(matrix, Int4Matrix) and matrix.group % GROUP_STEP:
        assert matrix.group == matrix.columns, f"groups of {matrix.group} do not lie in chunks"
    return lambda x_TC: multiply(x_TC, matrix, processors)


def tile_for(tokens: int) -> LinearTile:
    return next((tile for tile in TILES if tile.tokens >= tokens), TILES[-1])


def parts_for(programs: int, columns: int, processors: int) -> int:
    """Into how many the columns are cut, so that there is work for the whole card."""
    parts = 1
    while programs * parts < PROGRAMS_EACH * processors and parts < PARTS_MAX:
        if columns < 2 * parts * PART_COLUMNS:
            break
        parts *= 2
    return parts


def _launch_row(x_1C: Tensor, matrix: Matrix, out_1R: Tensor) -> None:
    grid = (triton.cdiv(matrix.rows, ROW_ROWS),)
    sizes = {"BLOCK_ROWS": ROW_ROWS, "num_warps": ROW_WARPS}
    if isinstance(matrix, Int4Matrix):
        multiply_row_int4[grid](
            x_1C, matrix.weight_RB, matrix.pair_RG, matrix.bias_R, out_1R,
            matrix.rows, matrix.columns, matrix.pair_RG.shape[1],
            BLOCK_CHUNKS=32 * ROW_WARPS, GROUP=_group(matrix), **sizes,
        )  # fmt: skip
        return
    run = ROW_RUN_BYTES // matrix.weight_RC.itemsize
    multiply_row[grid](
        x_1C, matrix.weight_RC, _scale(matrix), matrix.bias_R, out_1R,
        matrix.rows, matrix.columns, BLOCK_COLUMNS=32 * ROW_WARPS * run, RUN=run, **sizes,
    )  # fmt: skip


def _multiply_tiles(x_TC: Tensor, matrix: Matrix, out_TR: Tensor, processors: int) -> None:
    tile = tile_for(len(x_TC))
    programs = triton.cdiv(len(x_TC), tile.tokens) * triton.cdiv(matrix.rows, tile.rows)
    step = step_columns(tile, matrix)
    parts = parts_for(programs, matrix.columns, processors)
    columns_each = triton.cdiv(triton.cdiv(matrix.columns, parts), step) * step
    parts = triton.cdiv(matrix.columns, columns_each)
    if parts == 1:
        _launch_tiles(x_TC, matrix, out_TR, None, columns_each)
        return
    partial_PTR = x_TC.new_empty((parts, *out_TR.shape), dtype=torch.float32)
    _launch_tiles(x_TC, matrix, out_TR, partial_PTR, columns_each)
    add_parts[len(x_TC), triton.cdiv(matrix.rows, JOIN_BLOCK)](
        partial_PTR, _scale(matrix), matrix.bias_R, out_TR, matrix.rows, parts,
        BLOCK=JOIN_BLOCK, num_warps=4,
    )  # fmt: skip


def step_columns(tile: LinearTile, matrix: Matrix) -> int:
    """Columns that one step reads: of int4 they are of one group, or two halves of a chunk."""
    if not isinstance(matrix, Int4Matrix):
        return tile.columns
    columns = tile.columns_int4
    while columns > CHUNK and _group(matrix) % columns:
        columns //= 2
    return columns


def _launch_tiles(
    x_TC: Tensor, matrix: Matrix, out_TR: Tensor, partial_PTR: Tensor | None, columns_each: int
) -> None:
    """To `partial_PTR` if there is one, else to `out_TR`."""
    tile, bias = tile_for(len(x_TC)), matrix.bias_R if partial_PTR is None else None
    grid = (
        triton.cdiv(len(x_TC), tile.tokens),  # first, so that those of one matrix tile are near
        triton.cdiv(matrix.rows, tile.rows),
        1 if partial_PTR is None else len(partial_PTR),
    )
    sizes = {"BLOCK_TOKENS": tile.tokens, "BLOCK_ROWS": tile.rows}
    options = {"num_warps": tile.warps, "num_stages": STAGES}
    if isinstance(matrix, Int4Matrix):
        multiply_tile_int4[grid](
            x_TC, matrix.weight_RB, matrix.pair_RG, bias, out_TR, partial_PTR,
            len(x_TC), matrix.rows, matrix.columns, matrix.pair_RG.shape[1], columns_each // 2,
            BLOCK_BYTES=step_columns(tile, matrix) // 2, GROUP=_group(matrix), **sizes, **options,
        )  # fmt: skip
        return
    multiply_tile[grid](
        x_TC, matrix.weight_RC, _scale(matrix), bias, out_TR, partial_PTR,
        len(x_TC), matrix.rows, matrix.columns, columns_each,
        BLOCK_COLUMNS=tile.columns, **sizes, **options,
    )  # fmt: skip


def _scale(matrix: Matrix) -> Tensor | None:
    return matrix.scale_R if isinstance(matrix, Int8Matrix) else None


def _group(matrix: Int4Matrix) -> int:
    """0 for the whole row, so that no kernel is compiled for the length of one."""
    return 0 if matrix.group >= matrix.columns else matrix.group
