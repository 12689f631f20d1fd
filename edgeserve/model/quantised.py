"""Products in 8 or 4 bits: smaller to hold and faster to read, and a little wrong.

int8: a scale for each row of the matrix, and one for each token's numbers, found as it comes; the
product is of whole numbers. int4: a scale and an offset for each group of a row's numbers; the
tokens stay bf16. What a token gets depends on no other token of its frame. The head has 8 bits in
both: it chooses the words, and is a small part of what is read. The products here are a CPU's,
PyTorch's own; a GPU's are given to `Quantise`. Where none fits, the matrix is widened each time,
which saves memory and not time. Refuses to know spec and stage.

    T tokens, R rows and C columns of the matrix, G groups of a row, X numbers of a group
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.errors import UnsupportedModel
from edgeserve.families.spec import Dtype, group_of
from edgeserve.model.int8 import blocks, int8, int8_way
from edgeserve.model.product import Kernel, MakeKernel, Product

SAMPLE_TOKENS = 8
CPU_ROWS = 16  # that a CPU's int4 products take together


@dataclass(kw_only=True)
class Quantise:
    """Prepares products one after the other, and notes how wrong the first of each shape is."""

    dtype: Dtype
    make_int8: MakeKernel = field(default_factory=lambda: int8)
    make_int4: MakeKernel = field(default_factory=lambda: int4)
    errors: dict[torch.Size, float] = field(default_factory=dict)
    """As a share of the exact results, over all of them."""
    largest: dict[torch.Size, float] = field(default_factory=dict)
    """Of one result, in standard deviations of the exact ones."""
    _int8_way: str = ""

    def __call__(self, name: str, product: Product) -> None:
        weight = product.weight
        make = self._kernel_for(name, weight)
        if weight.shape in self.errors:
            product.hand_over(make)
            return
        generator = torch.Generator().manual_seed(0)
        x_TC = torch.randn(SAMPLE_TOKENS, weight.shape[1], generator=generator).to(weight)
        exact_TR = product(x_TC).float()
        product.hand_over(make)
        error_TR = product(x_TC).float() - exact_TR
        self.errors[weight.shape] = float(error_TR.norm() / exact_TR.norm())
        self.largest[weight.shape] = float(error_TR.abs().max() / exact_TR.std())

    def finish(self) -> None:
        """Each product was prepared as soon as it was full."""

    def report(self) -> str:
        """How far off the results are: overall, and the worst of all that were looked at."""
        mean = sum(self.errors.values()) / max(1, len(self.errors))
        largest = max(self.largest.values(), default=0.0)
        return (
            f"{self.dtype}: products differ by {100 * mean:.1f} % from {self.dtype.activation}, "
            f"one result by {largest:.2f} standard deviations at most{self._int8_way}"
        )

    def _kernel_for(self, name: str, weight_RC: Tensor) -> MakeKernel:
        if self.dtype is Dtype.INT8 or name == "head":
            self._int8_way = f"; int8 {int8_way().name}" if self.make_int8 is int8 else ""
            return self.make_int8
        if group_of(weight_RC.shape[1]) is None:
            raise UnsupportedModel(
                f"int4 keeps a scale for each 128, 64 or 32 numbers of a row; the rows of {name} "
                f"have {weight_RC.shape[1]}; serve the model with --dtype int8"
            )
        return self.make_int4


def int4(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """On a CPU, whose products take rows by sixteen."""
    if len(weight_RC) % CPU_ROWS:
        return int4_widened(weight_RC, bias_R)
    group, parts, pairs = group_or_fail(weight_RC), [], []
    for rows_RC in blocks(weight_RC):
        whole_RC, pair_RG2 = round_groups(rows_RC, group)
        parts.append(torch.ops.aten._convert_weight_to_int4pack_for_cpu(whole_RC, 1))
        pairs.append(pair_RG2)
    held = torch.cat(parts)
    pairs_GR2 = torch.cat(pairs).transpose(0, 1).contiguous()
    multiply: Callable[..., Tensor] = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def kernel(x_TC: Tensor) -> Tensor:
        out_TR = multiply(x_TC.bfloat16(), held, group, pairs_GR2).to(x_TC.dtype)
        return out_TR if bias_R is None else out_TR.add_(bias_R)

    return kernel


def int4_widened(weight_RC: Tensor, bias_R: Tensor | None) -> Kernel:
    """Two numbers in a byte, widened for each product; on any device."""
    group, shape = group_or_fail(weight_RC), weight_RC.shape
    rounded = [round_groups(rows_RC, group) for rows_RC in blocks(weight_RC)]
    held = torch.cat([(w[:, 0::2] | w[:, 1::2] << 4).to(torch.uint8) for w, _ in rounded])
    pair_RG2 = torch.cat([pair for _, pair in rounded]).to(weight_RC.dtype)
    scale_RG1, middle_RG1 = pair_RG2[..., :1], pair_RG2[..., 1:]

    def kernel(x_TC: Tensor) -> Tensor:
        whole_RC = torch.stack((held & 15, held >> 4), -1).view(shape)
        whole_RGX = whole_RC.view(len(held), -1, group).to(scale_RG1.dtype) - 8
        wide_RC = (whole_RGX * scale_RG1 + middle_RG1).view(shape)
        return functional.linear(x_TC, wide_RC.to(x_TC.dtype), bias_R)

    return kernel


def round_groups(rows_RC: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Whole numbers from 0 to 15 [R, C]; and in bf16 what one is worth in each group, and what 8
    stands for [R, G, 2].
    """
    rows_RGX = rows_RC.float().view(len(rows_RC), -1, group)
    low_RG, high_RG = rows_RGX.aminmax(dim=-1)
    # Rounded as they will be held, so that the whole numbers are the best for what is held.
    scale_RG = ((high_RG - low_RG) / 15).clamp_min_(1e-12).to(torch.bfloat16)
    middle_RG = (low_RG + 8 * scale_RG.float()).to(torch.bfloat16)
    steps_RGX = (rows_RGX - middle_RG.float()[..., None]) / scale_RG.float()[..., None] + 8
    whole_RC = steps_RGX.round_().clamp_(0, 15).to(torch.int32).view(rows_RC.shape)
    return whole_RC, torch.stack((scale_RG, middle_RG), -1)


def group_or_fail(weight_RC: Tensor) -> int:
    group = group_of(weight_RC.shape[1])
    assert group is not None, "who chooses int4 has asked"
    return group
