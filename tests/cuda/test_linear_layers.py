"""Graphs whose linear layers are Triton's, as a trial at load may choose and int8 and int4 have
them: what they start, and that nothing of it is compiled while a user waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeserve.cost.reserve import GRAPH_ROWS
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.model.cuda_linear import half_linear
from edgeserve.model.product import Product
from edgeserve.worker.cuda_frames import Processors
from tests.cuda.compiled import compiled
from tests.cuda.counts import kernels
from tests.cuda.events import Event, Launch
from tests.cuda.launches import Specialiser, Variant
from tests.cuda.recording import RTX_3060, Load, MetaStage, load_and_record
from tests.cuda.test_compiled import faults
from tests.cuda.test_recording import frames

pytestmark = pytest.mark.slow
H200 = Processors(count=132, shared_bytes=228 * 1024)
MIDDLE = Stage(LayerRange(2, 4), embedding=False, head=False)
LINEAR = ("mm", "addmm", "multiply_row", "multiply_row_int4", "multiply_tile", "multiply_tile_int4",
          "add_parts")  # fmt: skip


@dataclass
class OwnLinear:
    """Has Triton multiply, whatever would be faster."""

    processors: int

    def __call__(self, _name: str, product: Product) -> None:
        product.hand_over(half_linear(self.processors))

    def finish(self) -> None:
        pass

    def report(self) -> str:
        return ""


def recorded(dtype: Dtype, processors: Processors, shape: str = "llama-2-13b") -> MetaStage:
    load = Load(spec=SHAPES[shape], stage=MIDDLE, dtype=dtype, processors=processors)
    return load_and_record(load, None if dtype.is_quantised else OwnLinear(processors.count))


def linear_kernels(events: Iterable[Event]) -> Counter[str]:
    """Of a layer."""
    found = kernels(events)
    return Counter({name: found[name] // len(MIDDLE.layers) for name in LINEAR if found[name]})


def variants(events: Iterable[Event]) -> set[Variant]:
    specialiser = Specialiser()
    return {specialiser.variant(each) for each in events if isinstance(each, Launch)}


@pytest.mark.parametrize("dtype", [Dtype.FP16, Dtype.INT8, Dtype.INT4])
def test_each_linear_layer_is_one_kernel_where_the_card_has_work_enough(dtype: Dtype) -> None:
    stage = recorded(dtype, RTX_3060)

    suffix = "_int4" if dtype is Dtype.INT4 else ""
    for rows in GRAPH_ROWS[:5]:  # up to 16
        name = f"multiply_{'row' if rows == 1 else 'tile'}{suffix}"
        assert linear_kernels(stage.recordings[rows]) == {name: 4}


def test_a_larger_card_adds_parts_of_the_smaller_layers() -> None:
    stage = recorded(Dtype.INT8, H200)

    assert linear_kernels(stage.recordings[1]) == {"multiply_row": 4}
    assert linear_kernels(stage.recordings[8]) == {"multiply_tile": 4, "add_parts": 2}


@pytest.mark.parametrize("processors", [RTX_3060, H200], ids=["28", "132"])
@pytest.mark.parametrize("shape", ["llama-2-13b", "qwen2.5-7b"])
def test_own_layers_in_sixteen_bits_compile_nothing_in_a_frame(
    shape: str, processors: Processors
) -> None:
    stage = recorded(Dtype.BF16, processors, shape)
    at_load = variants(stage.device.events)

    in_frames = variants(event for frame in frames(stage) for event in frame)

    assert in_frames <= at_load, f"compiled while a user waits: {in_frames - at_load}"
    own = {each for each in at_load if ".linear" in each.kernel}
    # A row, three tiles and the sum of their parts, with a bias or without; and three that sum.
    assert len(own) <= 13


@pytest.mark.parametrize(
    ("capability", "processors"), [(86, RTX_3060), (90, H200)], ids=["RTX 3060", "H200"]
)
def test_own_layers_in_sixteen_bits_compile_into_good_code(
    capability: int, processors: Processors, tmp_path: Path
) -> None:
    specialiser, distinct = Specialiser(), dict[Variant, Launch]()
    for each in recorded(Dtype.FP16, processors).device.events:
        if isinstance(each, Launch) and ".linear" in each.kernel:
            distinct.setdefault(specialiser.variant(each), each)

    _version, code = compiled(list(distinct.values()), capability, tmp_path)

    assert len(code) >= 4, "a row and three tiles"
    assert list(faults(code)) == []
