"""Linear layers that read packed matrices, at shapes that no block divides. The numbers are small
and whole, so that every sum is exact whatever its order, and the results have to be equal bit for
bit.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from edgeserve.families.spec import Dtype
from edgeserve.model.cuda_linear import quantised_linear, quantised_matrix
from edgeserve.model.int8 import int8, int8_widened, round_rows
from edgeserve.model.kernels.linear import (
    CHUNK,
    PART_COLUMNS,
    TILES,
    HalfMatrix,
    Int4Matrix,
    Int8Matrix,
    Matrix,
    multiply_into,
    pack_int4,
    parts_for,
)
from edgeserve.model.product import MakeKernel
from edgeserve.model.quantised import int4, int4_widened, round_groups

GROUPS = (16, 32, 48, 64, 80, 96, 112, 128)
SHAPES = 200
GUARD = 96
"""Numbers before and behind whatever a kernel may touch, that are NaN."""
INT8 = quantised_linear(Dtype.INT8, processors=1)
INT4 = quantised_linear(Dtype.INT4, processors=1)
MANY_PROCESSORS = 4096  # so that the columns are cut wherever that is allowed


@dataclass(frozen=True, kw_only=True)
class Shape:
    kind: str
    """half, int8 or int4."""
    tokens: int
    rows: int
    columns: int
    group: int
    bias: bool

    def __str__(self) -> str:
        group = f"-groups{self.group}" if self.kind == "int4" else ""
        return f"{self.kind}-{self.tokens}x{self.rows}x{self.columns}{group}-bias{self.bias:d}"


def shapes() -> list[Shape]:
    """A third of each kind; one row of x, several, and more than a tile has."""
    draw = random.Random(1)
    return [
        Shape(
            kind=("half", "int8", "int4")[number % 3],
            tokens=draw.choice((1, draw.randint(2, 16), draw.randint(17, 65))),
            rows=draw.randint(1, 70),
            columns=draw.randint(1, 200),
            group=draw.choice((*GROUPS, 10**6)),
            bias=draw.random() < 0.5,
        )
        for number in range(SHAPES)
    ]


def cut_shapes() -> list[Shape]:
    """Long enough to be cut into parts of columns; the last one is not full."""
    return [
        Shape(kind=kind, tokens=tokens, rows=33, columns=2 * PART_COLUMNS + extra, group=group,
              bias=tokens == 2)
        for kind, group in (("half", 0), ("int8", 0), ("int4", 128), ("int4", 48))
        for tokens, extra in ((2, 24), (33, 7))
    ]  # fmt: skip


def whole(*size: int, largest: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, size, generator=generator)


def guarded(inside: Tensor) -> tuple[Tensor, Tensor]:
    """A copy between NaN, and all of it. It begins where a 128-bit load may."""
    around = torch.full((inside.numel() + 2 * GUARD,), torch.nan).to(inside)
    view = around[GUARD : GUARD + inside.numel()].view(inside.shape)
    view.copy_(inside)
    return view, around


def is_untouched(around: Tensor) -> bool:
    return bool(around[:GUARD].isnan().all() and around[-GUARD:].isnan().all())


def made(shape: Shape, dtype: torch.dtype, device: torch.device) -> tuple[Matrix, Tensor]:
    """The matrix as it is held, and written out in fp64."""
    rows, columns = shape.rows, shape.columns
    bias = whole(rows, largest=9, seed=2).to(device, dtype) if shape.bias else None
    if bias is not None:
        bias = guarded(bias)[0]
    if shape.kind == "half":
        held = whole(rows, columns, largest=4, seed=3).to(device, dtype)
        return HalfMatrix(weight_RC=guarded(held)[0], bias_R=bias), held.double()
    if shape.kind == "int8":
        held = whole(rows, columns, largest=127, seed=4).to(device, torch.int8)
        scale = (2.0 ** whole(rows, largest=2, seed=5) / 256).to(device)
        matrix = Int8Matrix(weight_RC=held, scale_R=guarded(scale)[0], bias_R=bias)
        return matrix, held.double() * scale[:, None]
    group = min(shape.group, columns)
    steps = whole(rows, columns, largest=8, seed=6).clamp_max(7).to(device)
    pairs = torch.stack((
        2.0 ** (whole(rows, -(-columns // group), largest=2, seed=7) - 2),
        whole(rows, -(-columns // group), largest=8, seed=8).float(),
    ), -1).to(device, torch.bfloat16)  # fmt: skip
    scale, middle = (
        each.double().repeat_interleave(group, dim=1)[:, :columns] for each in pairs.unbind(-1)
    )
    pair_RG = guarded(pairs)[0].view(torch.int32).squeeze(-1)
    matrix4 = Int4Matrix(
        weight_RB=pack_int4(steps + 8), pair_RG=pair_RG, columns=columns, group=group, bias_R=bias
    )
    return matrix4, steps * scale + middle


ROUNDED = {torch.float16: 0.0, torch.bfloat16: 2**-7}
"""The interpreter does not round to bf16, but cuts off."""


def assert_exact(
    shape: Shape, dtype: torch.dtype, device: torch.device, processors: int = 1
) -> None:
    matrix, wide = made(shape, dtype, device)
    x, _ = guarded(whole(shape.tokens, shape.columns, largest=8, seed=9).to(device, dtype))
    out, around = guarded(torch.zeros(shape.tokens, shape.rows, dtype=dtype, device=device))

    multiply_into(out, x, matrix, processors)

    want = x.double() @ wide.T
    want = want if matrix.bias_R is None else want + matrix.bias_R
    rtol = ROUNDED[dtype]
    torch.testing.assert_close(out, want.to(dtype), rtol=rtol, atol=0, msg=str(shape))
    assert is_untouched(around), shape


@pytest.mark.slow
@pytest.mark.parametrize("tenth", range(10))
def test_products_are_exact_at_awkward_shapes(tenth: int, device: torch.device) -> None:
    for shape in shapes()[tenth::10]:
        assert_exact(shape, torch.float16, device)


@pytest.mark.slow
@pytest.mark.parametrize("shape", cut_shapes(), ids=str)
def test_parts_of_the_columns_are_added_to_the_same(shape: Shape, device: torch.device) -> None:
    programs = -(-shape.rows // TILES[0].rows)
    assert parts_for(programs, shape.columns, MANY_PROCESSORS) > 1

    assert_exact(shape, torch.float16, device, MANY_PROCESSORS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["half", "int8", "int4"])
def test_one_row_of_bf16_is_exact(kind: str, device: torch.device) -> None:
    """Tiles of bf16 cannot be interpreted."""
    shape = Shape(kind=kind, tokens=1, rows=13, columns=70, group=32, bias=True)

    assert_exact(shape, torch.bfloat16, device)


def test_no_rows_give_nothing() -> None:
    matrix = HalfMatrix(weight_RC=torch.ones(3, 4), bias_R=None)
    multiply_into(out := torch.empty(0, 3), torch.empty(0, 4), matrix, 1)
    assert out.shape == (0, 3)


def test_a_card_that_has_work_enough_adds_no_parts() -> None:
    assert parts_for(programs=160, columns=5120, processors=28) == 1
    assert parts_for(programs=160, columns=5120, processors=132) == 4
    assert parts_for(programs=864, columns=5120, processors=132) == 1
    assert parts_for(programs=1, columns=2 * PART_COLUMNS - 1, processors=132) == 1
    assert parts_for(programs=1, columns=10**6, processors=132) == 8


# -- what a matrix becomes


def spread(rows: int, columns: int, largest: int) -> Tensor:
    """Whole numbers of which each 32 reach from -8 to 7, or each row to `largest`, so that
    rounding changes none of them.
    """
    weight = whole(rows, columns, largest=min(largest, 7), seed=10).float()
    weight[:, ::32], weight[:, 1::32] = -8.0, 7.0
    if largest > 8:
        weight[:, 2] = largest
    return weight


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize(
    ("ours", "reference", "largest"),
    [(INT8, int8_widened, 127), (INT4, int4_widened, 7)],
    ids=["int8", "int4"],
)
def test_whole_numbers_come_out_as_on_a_cpu(
    ours: MakeKernel, reference: MakeKernel, largest: int, tokens: int, device: torch.device
) -> None:
    """Bit for bit, scales, offsets and bias included."""
    weight, bias = spread(48, 192, largest).half(), whole(48, largest=9, seed=11).half()
    x = whole(tokens, 192, largest=4, seed=12).half()

    got = ours(weight.to(device), bias.to(device))(x.to(device)).cpu()
    want = reference(weight, bias)(x)

    assert torch.equal(want.double(), x.double() @ weight.double().T + bias)
    assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 5])
def test_four_bits_come_out_as_this_processor_multiplies_them(
    tokens: int, device: torch.device
) -> None:
    """It rounds its results to bf16."""
    weight, x = spread(48, 192, 7).half(), whole(tokens, 192, largest=4, seed=14).half()

    got = INT4(weight.to(device), None)(x.to(device)).cpu()

    assert torch.equal(got.bfloat16(), int4(weight, None)(x).bfloat16())


@pytest.mark.slow
def test_eight_bits_come_near_to_those_of_this_processor(device: torch.device) -> None:
    """Which rounds its tokens, too."""
    weight, x = torch.randn(32, 128).half(), torch.randn(3, 128).half()

    got = INT8(weight.to(device), None)(x.to(device)).float().cpu()
    want = int8(weight, None)(x).float()

    assert (got - want).norm() / want.norm() < 0.02


def test_whole_numbers_and_scales_are_those_of_the_cpu() -> None:
    weight = torch.randn(70, 256, generator=torch.Generator().manual_seed(13)).bfloat16()

    eight = quantised_matrix(weight, None, Dtype.INT8)
    four = quantised_matrix(weight, None, Dtype.INT4)

    assert isinstance(eight, Int8Matrix)
    assert isinstance(four, Int4Matrix)
    whole_RC, scale_R = round_rows(weight)
    assert torch.equal(eight.weight_RC, whole_RC)
    assert torch.equal(eight.scale_R, scale_R)
    steps_RC, pair_RG2 = round_groups(weight, four.group)
    assert torch.equal(four.weight_RB, pack_int4(steps_RC))
    assert torch.equal(four.pair_RG.view(torch.bfloat16), pair_RG2.flatten(1))


def test_the_lower_halves_of_sixteen_bytes_have_the_first_sixteen_columns() -> None:
    steps = torch.arange(40)[None] % 16

    [held] = pack_int4(steps).tolist()

    assert held[:16] == [each | each << 4 for each in range(16)]
    assert held[16:24] == [each | 8 << 4 for each in range(8)]
    assert held[24:] == [8 | 8 << 4] * 8, "what pads a row stands for zero"
    assert len(held) == 2 * CHUNK // 2


@pytest.mark.parametrize("dtype", [Dtype.INT8, Dtype.INT4])
def test_memory_holds_what_the_plan_counts(dtype: Dtype) -> None:
    weight = torch.ones(320, 1024, dtype=torch.bfloat16)

    matrix = quantised_matrix(weight, None, dtype)

    held = [each for each in vars(matrix).values() if isinstance(each, Tensor)]
    held_bytes = sum(each.untyped_storage().nbytes() for each in held)
    planned_bytes = dtype.matrix_bytes(320, 1024)
    assert planned_bytes * 0.99 <= held_bytes <= planned_bytes
