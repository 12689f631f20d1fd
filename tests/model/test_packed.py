"""The layout of weights is chosen by trying, once for each shape, within a bound of time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeserve.clock import ManualClock, MonotonicClock
from edgeserve.model import packed
from edgeserve.model.packed import LAYOUTS, FastestLayout
from edgeserve.model.product import Kernel, MakeKernel, Product


def product(rows: int, columns: int) -> Product:
    made = Product(rows, columns, bias=True, dtype=torch.float32, device="cpu")
    made.weight.normal_()
    assert made.bias is not None
    made.bias.normal_()
    return made


def taking(clock: ManualClock, one_s: float, many_s: float) -> MakeKernel:
    """A layout that takes `one_s` for a token and `many_s` for more."""

    def make(_weight: Tensor, _bias: Tensor | None) -> Kernel:
        def multiply(x: Tensor) -> Tensor:
            clock.advance(one_s if len(x) == 1 else many_s)
            return x

        return multiply

    return make


@pytest.fixture(autouse=True)
def _one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "ROTATED_BYTES", 1)


def test_the_layout_that_is_fastest_over_all_batch_sizes_is_chosen() -> None:
    clock = ManualClock()
    layouts = {
        "good at one": taking(clock, 0.01, 0.08),
        "good at all": taking(clock, 0.02, 0.02),
        "good at many": taking(clock, 0.09, 0.01),
    }
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    assert prepare.tried[torch.Size((8, 4))].layout == "good at all"
    assert prepare.report() == (
        "products, in ms of processor time for 1, 8, 64 tokens: "
        "8x4 good at all (good at one 10.00 80.00 80.00, "
        "good at all 20.00 20.00 20.00, good at many 90.00 10.00 10.00)"
    )


@pytest.mark.parametrize(("second_s", "chosen"), [(0.009, "first"), (0.008, "second")])
def test_another_layout_has_to_be_clearly_faster_than_the_first(
    second_s: float, chosen: str
) -> None:
    clock = ManualClock()
    layouts = {"first": taking(clock, 0.01, 0.01), "second": taking(clock, second_s, second_s)}
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    assert prepare.tried[torch.Size((8, 4))].layout == chosen


def test_a_shape_is_tried_once_and_its_layers_share_the_result() -> None:
    clock = ManualClock()
    prepare = FastestLayout(clock=clock, layouts={"only": taking(clock, 0.01, 0.01)}, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    after_first_s = clock.now_s()
    second = product(8, 4)
    prepare("layers.1.qkv", second)
    assert clock.now_s() == after_first_s
    assert not list(second.parameters()), "the plain weight is still held"


def test_trying_ends_when_its_time_is_spent() -> None:
    clock = ManualClock()
    layouts = {"slow": taking(clock, 0.9, 0.9), "fast": taking(clock, 0.5, 0.5)}
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    spent_s = clock.now_s()
    assert spent_s > packed.BUDGET_S
    prepare("layers.0.down", product(4, 8))
    assert clock.now_s() == spent_s
    x = torch.ones(1, 8)
    late = product(6, 8)
    prepare("head", late)
    late(x)
    assert clock.now_s() == pytest.approx(spent_s + 0.5), "not the layout that the others got"


def test_small_weights_are_left_as_they_are() -> None:
    prepare = FastestLayout(clock=ManualClock())
    small = product(512, 512)
    prepare("layers.0.qkv", small)
    assert small.weight.shape == (512, 512)
    assert prepare.report().endswith("all plain")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_prepared_product_is_the_product(dtype: torch.dtype) -> None:
    made = product(2100, 1024).to(dtype)
    weight, bias = made.weight.double(), made.bias.double()  # type: ignore[union-attr]
    FastestLayout(clock=MonotonicClock())("layers.0.qkv", made)
    assert not list(made.parameters())
    for tokens in (1, 3, 16, 100):
        x = torch.randn(tokens, 1024).to(dtype)
        want = x.double() @ weight.T + bias
        error = (made(x).double() - want).norm() / want.norm()
        assert error < (1e-6 if dtype is torch.float32 else 3e-3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_adds_the_bias(layout: str) -> None:
    made = product(48, 32)
    plain = [made(torch.ones(tokens, 32)) for tokens in (1, 5)]
    made.hand_over(LAYOUTS[layout])
    for tokens, want in zip((1, 5), plain, strict=True):
        torch.testing.assert_close(made(torch.ones(tokens, 32)), want, atol=1e-4, rtol=0)
