"""The layout of weights is chosen by trying, once for each shape, within a bound of time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.clock import ManualClock, MonotonicClock
from edgeserve.model import packed
from edgeserve.model.packed import FastestLayout
from edgeserve.model.product import Kernel, MakeKernel, Product


def product(rows: int, columns: int) -> Product:
    made = Product(rows, columns, bias=True, dtype=torch.float32, device="cpu")
    made.weight.normal_()
    assert made.bias is not None
    made.bias.normal_()
    return made


def taking(clock: ManualClock, one_s: float, many_s: float) -> MakeKernel:
    """A layout that takes `one_s` for a token and `many_s` for more."""

    def make(weight: Tensor, bias: Tensor | None) -> Kernel:
        def multiply(x: Tensor) -> Tensor:
            clock.advance(one_s if len(x) == 1 else many_s)
            return functional.linear(x, weight, bias)

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
    late = product(6, 8)
    prepare("head", late)
    late(torch.ones(1, 8))
    assert clock.now_s() == pytest.approx(spent_s + 0.5), "not the layout that the others got"


def missing(_weight: Tensor, _bias: Tensor | None) -> Kernel:
    raise RuntimeError("no such instructions\nand a stack of C++ calls")


def wrong_for(tokens: int, clock: ManualClock) -> MakeKernel:
    """Fast, and right for other numbers of tokens."""

    def make(weight: Tensor, bias: Tensor | None) -> Kernel:
        right = taking(clock, 0.001, 0.001)(weight, bias)
        return lambda x: right(x) * (1.01 if len(x) == tokens else 1.0)

    return make


def test_a_layout_that_cannot_be_made_here_drops_out() -> None:
    clock = ManualClock()
    layouts = {"missing": missing, "left": taking(clock, 0.01, 0.01)}
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    made = product(8, 4)
    x = torch.randn(2, 4)
    want = made(x)
    prepare("layers.0.qkv", made)
    assert torch.equal(made(x), want)
    assert prepare.tried[torch.Size((8, 4))].layout == "left"
    assert prepare.report().endswith(
        "8x4 left (left 10.00 10.00 10.00); dropped out: missing (no such instructions)"
    )


@pytest.mark.parametrize("tokens", packed.TRIED_TOKENS)
def test_a_layout_whose_results_are_wrong_drops_out(tokens: int) -> None:
    clock = ManualClock()
    layouts = {"right": taking(clock, 0.01, 0.01), "wrong": wrong_for(tokens, clock)}
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    tried = prepare.tried[torch.Size((8, 4))]
    assert tried.layout == "right"
    assert tried.dropped == {"wrong": f"{tokens} tokens give results that are off by 1 %"}


def test_without_any_layout_that_works_the_product_stays_plain() -> None:
    prepare = FastestLayout(clock=ManualClock(), layouts={"missing": missing}, small_bytes=0)
    made = product(8, 4)
    prepare("layers.0.qkv", made)
    assert made.weight.shape == (8, 4)
    assert prepare.report().endswith(
        "8x4 plain (nothing else works); dropped out: missing (no such instructions)"
    )


def test_a_matrix_that_the_best_layout_cannot_hold_gets_the_next() -> None:
    clock = ManualClock()

    def no_large_numbers(weight: Tensor, bias: Tensor | None) -> Kernel:
        if weight.abs().max() > 100:
            raise RuntimeError("too large")
        return taking(clock, 0.001, 0.001)(weight, bias)

    layouts = {"slow": taking(clock, 0.02, 0.02), "best": no_large_numbers}
    prepare = FastestLayout(clock=clock, layouts=layouts, small_bytes=0)
    prepare("layers.0.qkv", product(8, 4))
    large = product(8, 4)
    large.weight[0, 0] = 1000
    prepare("layers.1.qkv", large)
    before_s = clock.now_s()
    large(torch.ones(1, 4))
    assert clock.now_s() - before_s == pytest.approx(0.02)


def test_small_weights_are_left_as_they_are() -> None:
    prepare = FastestLayout(clock=ManualClock())
    small = product(512, 512)
    prepare("layers.0.qkv", small)
    assert small.weight.shape == (512, 512)
    assert prepare.report().endswith("all plain")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
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
