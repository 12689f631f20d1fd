"""All stages of a cut in one process, fed frame by frame as a pipeline would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import cut
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.layouts import LAYOUTS
from edgeserve.model.pages import KvPages
from edgeserve.model.product import LeavePlain, MakeKernel, Preparation, Product
from edgeserve.model.weights import WeightForm, load_slice

PAGES = 24


@dataclass(frozen=True, kw_only=True)
class Tiny:
    folder: Path
    spec: ModelSpec
    reference: Any
    """The transformers model."""


GetTiny = Callable[[str], Tiny]


@dataclass(frozen=True)
class Fed:
    """Tokens of one sequence in a frame."""

    pages: tuple[int, ...]
    first_position: int
    ids: Sequence[int]


@dataclass(frozen=True)
class Forced:
    """Hands every product to the same kernel, however small it is."""

    make: MakeKernel

    def __call__(self, _name: str, product: Product) -> None:
        product.hand_over(self.make)

    def finish(self) -> None:
        pass

    def report(self) -> str:
        return "forced"


def can_be_made(layout: str, dtype: torch.dtype) -> bool:
    """Whether this processor has the layout for weights of that dtype."""
    try:
        LAYOUTS[layout](torch.ones(64, 64, dtype=dtype), None)
    except RuntimeError:
        return False
    return True


class Stages:
    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        layer_counts: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        prepare: Preparation | None = None,
    ) -> None:
        form = WeightForm(dtype, prepare=prepare or LeavePlain())
        self._held = [
            (
                load_slice(folder, spec, stage, form, lambda _done, _total: None).slice,
                KvPages(spec, len(stage.layers), PAGES, dtype, "cpu"),
            )
            for stage in cut(layer_counts)
        ]

    def frame(self, *fed: Fed) -> list[Tensor]:
        """The logits [T, V] of each sequence's tokens."""
        segments = [PagedSegment(each.pages, each.first_position, len(each.ids)) for each in fed]
        batch = PackedBatch.build(segments, "cpu")
        x = torch.tensor([token for each in fed for token in each.ids], dtype=torch.int32)
        for slice_, kv_pages in self._held:
            x = slice_(x, batch, kv_pages)
        logits = self._held[-1][0].logits(x)
        return list(logits.split_with_sizes([len(each.ids) for each in fed]))
