"""Several rows of x times a matrix, in tiles: each program a few rows of the matrix and of x.

The matrix is read as it is held, a tile at a time, and becomes what a tensor core takes in
registers. It is the left factor, so 16 rows of x cost no more than one. Sums are in fp32. Where
there are too few tiles for the card, each is cut into parts of the columns, which a second kernel
adds in their order: the result does not depend on which came first.

    T rows of x, R rows and C columns of the matrix; G groups of a row; P parts
"""

from __future__ import annotations

import triton
import triton.language as tl

from edgeserve.model.kernels.whole_numbers import (
    high_nibble,
    low_nibble,
    middle_of,
    narrowed,
    scale_of,
    widened,
)


@triton.jit(do_not_specialize=["tokens"])
def multiply_tile(
    x_ptr: tl.tensor, held_ptr: tl.tensor, scale_ptr: tl.tensor | None,
    bias_ptr: tl.tensor | None, out_ptr: tl.tensor, partial_ptr: tl.tensor | None,
    tokens: tl.tensor, rows: tl.tensor, columns: tl.tensor, columns_each: tl.tensor,
    BLOCK_TOKENS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    """The matrix is int8 with a scale for each row, or has the dtype of x and no scale. Parts of
    the columns are sums alone, and go to `partial_ptr`.
    """
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_token, is_row = token < tokens, row < rows
    at_x = x_ptr + token.to(tl.int64)[None, :] * columns
    at_row = held_ptr + row.to(tl.int64)[:, None] * columns
    begin = tl.program_id(2) * columns_each
    end = tl.minimum(begin + columns_each, columns)
    sums = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
    for start in range(begin, end, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        is_column = column < end
        x = tl.load(at_x + column[:, None], mask=is_token[None, :] & is_column[:, None], other=0.0)
        held = tl.load(at_row + column[None, :], mask=is_row[:, None] & is_column[None, :], other=0)
        weight = held if scale_ptr is None else narrowed(widened(held), x_ptr.dtype.element_ty)
        sums = tl.dot(weight, x, sums, input_precision="ieee")
    is_out = is_row[:, None] & is_token[None, :]
    at = token.to(tl.int64)[None, :] * rows + row[:, None]
    if partial_ptr is not None:
        tl.store(
            partial_ptr + tl.program_id(2).to(tl.int64) * tokens * rows + at, sums, mask=is_out
        )
    else:
        if scale_ptr is not None:
            sums *= tl.load(scale_ptr + row, mask=is_row, other=0.0)[:, None]
        if bias_ptr is not None:
            sums += tl.load(bias_ptr + row, mask=is_row, other=0.0).to(tl.float32)[:, None]
        tl.store(out_ptr + at, sums.to(out_ptr.dtype.element_ty), mask=is_out)


@triton.jit(do_not_specialize=["tokens", "groups"])
def multiply_tile_int4(
    x_ptr: tl.tensor, held_ptr: tl.tensor, pair_ptr: tl.tensor, bias_ptr: tl.tensor | None,
    out_ptr: tl.tensor, partial_ptr: tl.tensor | None,
    tokens: tl.tensor, rows: tl.tensor, columns: tl.tensor, groups: tl.tensor,
    bytes_each: tl.tensor,
    BLOCK_TOKENS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_BYTES: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:  # fmt: skip
    """A step of the loop reads what lies in one group, or with groups that no chunk divides two.
    GROUP 0 is the whole row.
    """
    token = tl.program_id(0) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    row = tl.program_id(1) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    is_token, is_row = token < tokens, row < rows
    at_x = x_ptr + token.to(tl.int64)[None, :] * columns
    row_bytes = (columns + 31) // 32 * 16
    at_row = held_ptr + row.to(tl.int64)[:, None] * row_bytes
    at_pair = pair_ptr + row.to(tl.int64) * groups
    begin = tl.program_id(2) * bytes_each
    end = tl.minimum(begin + bytes_each, row_bytes)
    byte = tl.arange(0, BLOCK_BYTES)
    sums = tl.zeros([BLOCK_ROWS, BLOCK_TOKENS], tl.float32)
    for start in range(begin, end, BLOCK_BYTES):
        is_byte = start + byte < end
        low = start * 2 + byte // 16 * 32 + byte % 16
        high = low + 16
        is_low, is_high = is_byte & (low < columns), is_byte & (high < columns)
        x_low = tl.load(at_x + low[:, None], mask=is_token[None, :] & is_low[:, None], other=0.0)
        x_high = tl.load(at_x + high[:, None], mask=is_token[None, :] & is_high[:, None], other=0.0)
        held = tl.load(
            at_row + (start + byte)[None, :], mask=is_row[:, None] & is_byte[None, :], other=0
        )
        total_low = tl.sum(x_low.to(tl.float32), axis=0)
        total_high = tl.sum(x_high.to(tl.float32), axis=0)
        low_weight = narrowed(low_nibble(held), x_ptr.dtype.element_ty)
        high_weight = narrowed(high_nibble(held), x_ptr.dtype.element_ty)
        steps = tl.dot(low_weight, x_low, input_precision="ieee")
        group = start * 2 // GROUP if GROUP else 0
        pair = tl.load(at_pair + group, mask=is_row, other=0)
        if GROUP % 32 == 0:
            steps = tl.dot(high_weight, x_high, steps, input_precision="ieee")
            sums += steps * scale_of(pair)[:, None]
            sums += (total_low + total_high)[None, :] * middle_of(pair)[:, None]
        else:
            sums += steps * scale_of(pair)[:, None] + total_low[None, :] * middle_of(pair)[:, None]
            after = (start * 2 + 16) // GROUP
            pair = tl.load(at_pair + after, mask=is_row & (start * 2 + 16 < columns), other=0)
            steps = tl.dot(high_weight, x_high, input_precision="ieee")
            sums += steps * scale_of(pair)[:, None] + total_high[None, :] * middle_of(pair)[:, None]
    is_out = is_row[:, None] & is_token[None, :]
    at = token.to(tl.int64)[None, :] * rows + row[:, None]
    if partial_ptr is not None:
        tl.store(
            partial_ptr + tl.program_id(2).to(tl.int64) * tokens * rows + at, sums, mask=is_out
        )
    else:
        if bias_ptr is not None:
            sums += tl.load(bias_ptr + row, mask=is_row, other=0.0).to(tl.float32)[:, None]
        tl.store(out_ptr + at, sums.to(out_ptr.dtype.element_ty), mask=is_out)


@triton.jit(do_not_specialize=["parts"])
def add_parts(
    partial_ptr: tl.tensor, scale_ptr: tl.tensor | None, bias_ptr: tl.tensor | None,
    out_ptr: tl.tensor, rows: tl.tensor, parts: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    """[T, R] of [P, T, R], the first part first."""
    row = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_row = row < rows
    at = tl.program_id(0).to(tl.int64) * rows + row
    part_size = tl.num_programs(0).to(tl.int64) * rows
    sums = tl.zeros([BLOCK], tl.float32)
    for part in range(parts):
        sums += tl.load(partial_ptr + part * part_size + at, mask=is_row, other=0.0)
    if scale_ptr is not None:
        sums *= tl.load(scale_ptr + row, mask=is_row, other=0.0)
    if bias_ptr is not None:
        sums += tl.load(bias_ptr + row, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, sums.to(out_ptr.dtype.element_ty), mask=is_row)
