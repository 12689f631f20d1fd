"""One row of x times a matrix: the decode of a single sequence, which only reads.

Each program takes a few rows of the matrix. A thread reads 16 bytes of each of them and the x that
belongs to these columns once, and adds up its products; threads are added together at the end. All
sums are in fp32 and in a fixed order. There are thousands of programs, so no row is split.

    R rows and C columns of the matrix; G groups of a row
"""

from __future__ import annotations

import triton
import triton.language as tl

from edgeserve.model.kernels.whole_numbers import (
    high_nibble,
    low_nibble,
    middle_of,
    scale_of,
    widened,
)


@triton.jit
def multiply_row(
    x_ptr: tl.tensor, held_ptr: tl.tensor, scale_ptr: tl.tensor | None,
    bias_ptr: tl.tensor | None, out_ptr: tl.tensor, rows: tl.tensor, columns: tl.tensor,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, RUN: tl.constexpr,
) -> None:  # fmt: skip
    """The matrix is int8 with a scale for each row, or floating point without one."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row = row < rows
    at_row = held_ptr + row.to(tl.int64)[:, None] * columns
    sums = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS // RUN], tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        is_column = column < columns
        x = tl.load(x_ptr + column, mask=is_column, other=0.0).to(tl.float32)
        held = tl.load(
            at_row + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0,
            eviction_policy="evict_first",
        )  # fmt: skip
        products = widened(held) * x[None, :]
        sums += tl.sum(products.reshape(BLOCK_ROWS, BLOCK_COLUMNS // RUN, RUN), axis=2)
    out = tl.sum(sums, axis=1)
    if scale_ptr is not None:
        out *= tl.load(scale_ptr + row, mask=is_row, other=0.0)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + row, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=is_row)


@triton.jit(do_not_specialize=["groups"])
def multiply_row_int4(
    x_ptr: tl.tensor, held_ptr: tl.tensor, pair_ptr: tl.tensor, bias_ptr: tl.tensor | None,
    out_ptr: tl.tensor, rows: tl.tensor, columns: tl.tensor, groups: tl.tensor,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, GROUP: tl.constexpr,
) -> None:  # fmt: skip
    """GROUP 0 is the whole row."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_row = row < rows
    chunks = (columns + 31) // 32
    at_row = held_ptr + row.to(tl.int64)[:, None] * (chunks * 16)
    at_pair = pair_ptr + row.to(tl.int64)[:, None] * groups
    sums = tl.zeros([BLOCK_ROWS, BLOCK_CHUNKS], tl.float32)
    for start in range(0, chunks, BLOCK_CHUNKS):
        byte = tl.arange(0, BLOCK_CHUNKS * 16)
        low = start * 32 + byte // 16 * 32 + byte % 16
        high = low + 16
        x_low = tl.load(x_ptr + low, mask=low < columns, other=0.0).to(tl.float32)
        x_high = tl.load(x_ptr + high, mask=high < columns, other=0.0).to(tl.float32)
        is_byte = start * 16 + byte < chunks * 16
        held = tl.load(
            at_row + (start * 16 + byte)[None, :], mask=is_row[:, None] & is_byte[None, :], other=0,
            eviction_policy="evict_first",
        )  # fmt: skip
        first = (start + tl.arange(0, BLOCK_CHUNKS)) * 32
        low_products = low_nibble(held) * x_low[None, :]
        high_products = high_nibble(held) * x_high[None, :]
        if GROUP % 32 == 0:  # both halves of a chunk are of one group
            sums += _scaled(
                low_products + high_products, x_low + x_high, at_pair, first, is_row, columns,
                BLOCK_ROWS, BLOCK_CHUNKS, GROUP,
            )  # fmt: skip
        else:
            sums += _scaled(
                low_products, x_low, at_pair, first, is_row, columns,
                BLOCK_ROWS, BLOCK_CHUNKS, GROUP,
            )  # fmt: skip
            sums += _scaled(
                high_products, x_high, at_pair, first + 16, is_row, columns,
                BLOCK_ROWS, BLOCK_CHUNKS, GROUP,
            )  # fmt: skip
    out = tl.sum(sums, axis=1)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + row, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty), mask=is_row)


@triton.jit
def _scaled(
    products: tl.tensor, x: tl.tensor, at_pair: tl.tensor, first: tl.tensor, is_row: tl.tensor,
    columns: tl.tensor,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, GROUP: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Sums of 16 products, times what one step is worth in their group, plus the sum of x times its
    middle; `first` are their first columns.
    """
    group = first // GROUP if GROUP else first * 0
    pair = tl.load(
        at_pair + group[None, :], mask=is_row[:, None] & (first < columns)[None, :], other=0
    )
    steps = tl.sum(products.reshape(BLOCK_ROWS, BLOCK_CHUNKS, 16), axis=2)
    total = tl.sum(x.reshape(BLOCK_CHUNKS, 16), axis=1)
    return steps * scale_of(pair) + total[None, :] * middle_of(pair)
