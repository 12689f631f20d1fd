"""Blocks on their way to a GPU, with copies that happen as late as they may on a busy device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgeserve.errors import BadModel
from edgeserve.families.stage_files import find_tensors
from edgeserve.frames.stage import cut
from edgeserve.model.staging import HostStaging, PinnedStaging, Staging, staging_to
from edgeserve.model.weights import Filling, WeightForm, fill
from tests.model.stages import GetTiny, Tiny
from tests.model.tiny import LAYERS

pytestmark = pytest.mark.slow

WHOLE = cut((LAYERS,))[0]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class LateTransfer:
    """Nothing is done until somebody waits for it: then all that was begun, up to it, in order."""

    def __init__(self) -> None:
        self.buffers: list[int] = []
        self.under_way: list[int] = []
        """After each beginning, how many were not done."""
        self._begun: list[Callable[[], None]] = []
        self._done = 0

    def buffer(self, size_bytes: int) -> torch.Tensor:
        self.buffers.append(size_bytes)
        return torch.full((size_bytes,), 255, dtype=torch.uint8)

    def begin(self, work: Callable[[], None]) -> Callable[[], None]:
        self._begun.append(work)
        self.under_way.append(len(self._begun) - self._done)
        number = len(self._begun)
        return lambda: self._wait_for(number)

    def _wait_for(self, number: int) -> None:
        while self._done < number:
            self._begun[self._done]()
            self._done += 1


def filled(
    model: Tiny, dtype: torch.dtype, staging: Staging, folder: Path | None = None
) -> dict[str, torch.Tensor]:
    filling = Filling(model.spec, WHOLE, WeightForm(dtype))
    found = find_tensors(folder or model.folder, model.spec, WHOLE)
    fill(filling, found, lambda _done, _total: None, staging)
    return dict(filling.slice.named_parameters())


@pytest.mark.parametrize("block_bytes", [1, 4096, 2**20])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_what_goes_through_two_buffers_is_the_same_to_the_bit(
    stored: torch.dtype, dtype: torch.dtype, block_bytes: int, tiny: GetTiny, tmp_path: Path
) -> None:
    model = tiny("qwen2")
    tensors = load_file(model.folder / "model.safetensors")
    save_file({n: t.to(stored) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    transfer = LateTransfer()
    wanted = filled(model, dtype, HostStaging(2**20), tmp_path)

    got = filled(model, dtype, PinnedStaging(block_bytes, transfer), tmp_path)

    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert max(transfer.under_way) == 2, "one is read into while the other is copied"


@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_no_more_than_two_buffers_are_pinned(
    stored: torch.dtype, tiny: GetTiny, tmp_path: Path
) -> None:
    """Even if numbers take more bytes here than in the file."""
    model = tiny("qwen2")
    tensors = load_file(model.folder / "model.safetensors")
    save_file({n: t.to(stored) for n, t in tensors.items()}, tmp_path / "model.safetensors")
    for dtype in DTYPES:
        transfer = LateTransfer()
        filled(model, dtype, PinnedStaging(4096, transfer), tmp_path)
        assert transfer.buffers == [4096, 4096]


def test_they_are_given_up_at_the_end(tiny: GetTiny) -> None:
    staging = PinnedStaging(4096, LateTransfer())

    filled(tiny("qwen2"), torch.float16, staging)

    assert [each.memory for each in staging._free] == [None, None]
    assert staging._raw is None
    assert staging._extremes == []


@pytest.mark.parametrize("number", [1e5, -1e5, float("nan"), float("inf")])
@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_numbers_that_fp16_cannot_hold_are_refused_at_the_end(
    stored: torch.dtype, number: float, tiny: GetTiny, tmp_path: Path
) -> None:
    model, name = tiny("llama2"), "model.layers.1.self_attn.q_proj.weight"
    tensors = load_file(model.folder / "model.safetensors")
    tensors[name][17, 3] = number
    save_file({n: t.to(stored) for n, t in tensors.items()}, tmp_path / "model.safetensors")

    with pytest.raises(BadModel, match=f"{name} in .* fp16 cannot hold.*--dtype bf16"):
        filled(model, torch.float16, PinnedStaging(100, LateTransfer()), tmp_path)

    filled(model, torch.bfloat16, PinnedStaging(100, LateTransfer()), tmp_path)


def test_a_cpu_and_a_device_without_numbers_get_no_pinned_memory() -> None:
    assert isinstance(staging_to("cpu", 64), HostStaging)
    assert isinstance(staging_to(torch.device("meta"), 64), HostStaging)
    assert isinstance(staging_to("cuda:0", 64), PinnedStaging)
