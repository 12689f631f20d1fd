"""Whole numbers of 8 and 4 bits to floating point, in registers.

A GPU adds several times as many numbers in a cycle as its own instruction converts. So a whole
number is added to the bits of 1.5 * 2^23, whose last bit is worth 1, and 1.5 * 2^23 is subtracted
again: exact, and two plain instructions. What comes out is small enough for bf16 to hold it
exactly.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Triton reads a global only if it is marked as constant.
BASE_BITS = tl.constexpr(0x4B400000)
BASE = tl.constexpr(12582912.0)


@triton.jit
def widened(held: tl.tensor) -> tl.tensor:
    """fp32 of int8, or of a number that is floating point already."""
    if tl.int8 == held.dtype:
        return (held.to(tl.int32) + BASE_BITS).to(tl.float32, bitcast=True) - BASE
    else:
        return held.to(tl.float32)


@triton.jit
def low_nibble(held: tl.tensor) -> tl.tensor:
    """fp32, from -8 to 7, of a byte's lower four bits."""
    bits = (held.to(tl.int32) & 15) | BASE_BITS
    return bits.to(tl.float32, bitcast=True) - (BASE + 8.0)


@triton.jit
def high_nibble(held: tl.tensor) -> tl.tensor:
    """fp32, from -8 to 7, of a byte's upper four bits."""
    bits = (held.to(tl.int32) >> 4) | BASE_BITS
    return bits.to(tl.float32, bitcast=True) - (BASE + 8.0)


@triton.jit
def narrowed(small: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """A whole number of at most 8 bits, from fp32 to what a tensor core takes; exact."""
    if tl.bfloat16 == DTYPE:  # the upper half of fp32, so nothing has to be rounded
        upper = small.to(tl.int32, bitcast=True) >> 16
        return upper.to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        return small.to(DTYPE)


@triton.jit
def scale_of(pair: tl.tensor) -> tl.tensor:
    """fp32 of the first of two bf16 numbers that were read as one int32."""
    return (pair << 16).to(tl.float32, bitcast=True)


@triton.jit
def middle_of(pair: tl.tensor) -> tl.tensor:
    """fp32 of the second."""
    return (pair & -65536).to(tl.float32, bitcast=True)
