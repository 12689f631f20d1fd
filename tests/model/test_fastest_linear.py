"""What multiplies is chosen for each shape and number of rows, by times that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgeserve.clock import ManualClock
from edgeserve.families.folder import open_model
from edgeserve.frames.stage import cut
from edgeserve.model.fastest_linear import BUDGET_S, COPIES, FastestLinear
from edgeserve.model.product import Kernel, MakeKernel, Product
from edgeserve.model.weights import WeightForm, load_slice
from tests.model.tiny import save_tiny


@dataclass
class ClockTimer:
    """Says how far the clock went, where the work moves it."""

    clock: ManualClock
    works: list[int] = field(default_factory=list)
    closed: int = 0

    def __call__(self, works: Sequence[Callable[[], object]], /) -> float:
        self.works.append(len(works))
        start_s = self.clock.now_s()
        for work in works:
            work()
        return self.clock.now_s() - start_s

    def close(self) -> None:
        self.closed += 1


@dataclass
class Fake:
    """A candidate that takes so many seconds for one row, up to 16, and up to 64."""

    clock: ManualClock
    seconds: tuple[float, float, float]
    asked: list[int] = field(default_factory=list)
    """Rows, of each product."""

    def make(self, weight: Tensor, bias: Tensor | None) -> Kernel:
        def multiply(x: Tensor) -> Tensor:
            self.clock.advance(self.seconds[(len(x) > 1) + (len(x) > 16)])
            self.asked.append(len(x))
            return functional.linear(x, weight, bias)

        return multiply


def layer(rows: int = 40, columns: int = 24) -> Product:
    made = Product(rows, columns, bias=True, dtype=torch.float32, device="cpu")
    made.weight.normal_()
    assert made.bias is not None
    made.bias.normal_()
    return made


def choosing(clock: ManualClock, **candidates: MakeKernel) -> FastestLinear:
    return FastestLinear(candidates=candidates, timer=ClockTimer(clock), clock=clock)


def chosen(prepare: FastestLinear) -> list[tuple[str, ...]]:
    return [each.chosen for each in prepare.tried.values()]


def test_each_number_of_rows_goes_to_what_was_fastest_for_it() -> None:
    clock = ManualClock()
    first, other = Fake(clock, (2.0, 1.0, 1.0)), Fake(clock, (1.0, 2.0, 0.5))
    prepare = choosing(clock, first=first.make, other=other.make)
    layers = [layer(), layer()]
    want = [each(torch.ones(2, 24)) for each in layers]

    for each in layers:
        prepare("layers.0.qkv", each)
    prepare.finish()

    assert chosen(prepare) == [("other", "first", "other")]
    for fake, rows in ((first, [2, 16, 65]), (other, [1, 17, 64])):
        fake.asked.clear()
        for count in (1, 2, 16, 17, 64, 65):
            layers[0](torch.ones(count, 24))
        assert fake.asked == rows
    for each, exact in zip(layers, want, strict=True):
        torch.testing.assert_close(each(torch.ones(2, 24)), exact)
        assert not list(each.parameters())


def test_a_layer_stays_plain_where_the_first_is_nearly_as_fast() -> None:
    clock = ManualClock()
    first, other = Fake(clock, (1.02, 1.02, 1.0)), Fake(clock, (1.0, 1.0, 1.0))
    prepare = choosing(clock, first=first.make, other=other.make)
    made = layer()

    prepare("head", made)
    prepare.finish()

    assert chosen(prepare) == [("first",) * 3]
    assert len(list(made.parameters())) == 2


def test_each_shape_is_tried_by_itself_on_the_matrices_of_the_slice() -> None:
    clock = ManualClock()
    prepare = choosing(clock, first=Fake(clock, (1.0, 1.0, 1.0)).make)
    for number in range(20):
        prepare(f"layers.{number}.qkv", layer())
    prepare("head", layer(rows=7))
    timer = prepare.timer
    assert isinstance(timer, ClockTimer)

    prepare.finish()

    assert list(prepare.tried) == [(40, 24), (7, 24)]
    assert timer.works == [COPIES] * 6
    assert timer.closed == 1


class CompileError(Exception):
    pass


def failing(error: Exception, _weight: Tensor, _bias: Tensor | None) -> Kernel:
    raise error


def wrong(_weight: Tensor, _bias: Tensor | None) -> Kernel:
    return lambda x: torch.zeros(len(x), 40)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (partial(failing, RuntimeError("no compiler\nat line 7")), "no compiler"),
        (partial(failing, CompileError("too many registers")), "too many registers"),
        (wrong, "1 tokens give results that are off by 1e+02 %"),
    ],
)
def test_a_candidate_that_fails_drops_out_and_the_log_says_why(make: Any, why: str) -> None:
    clock = ManualClock()
    prepare = choosing(clock, first=Fake(clock, (9.0, 9.0, 9.0)).make, other=make)
    prepare.failures = (RuntimeError, CompileError)
    prepare("head", layer())

    prepare.finish()

    assert chosen(prepare) == [("first",) * 3]
    assert prepare.report().endswith(f"; other dropped out: {why}")


def test_an_error_that_is_no_failure_of_a_candidate_is_not_hidden() -> None:
    prepare = choosing(ManualClock(), first=partial(failing, KeyError("rows")))
    prepare("head", layer())

    with pytest.raises(KeyError):
        prepare.finish()


def test_where_nothing_works_the_layers_stay_plain() -> None:
    prepare = choosing(ManualClock(), first=partial(failing, RuntimeError("no")))
    made = layer()
    prepare("head", made)

    prepare.finish()

    assert made(torch.ones(1, 24)).shape == (1, 40)
    assert "40x24 first / first / first (nothing works)" in prepare.report()


def test_trying_ends_with_its_budget() -> None:
    clock = ManualClock()
    slow = Fake(clock, (BUDGET_S, BUDGET_S, BUDGET_S))
    prepare = choosing(clock, first=Fake(clock, (99.0, 99.0, 99.0)).make, other=slow.make)
    prepare("layers.0.qkv", layer())
    prepare("head", untried := layer(rows=7))

    prepare.finish()

    assert list(prepare.tried) == [(40, 24)]
    assert "; no time for 1 other shapes" in prepare.report()
    assert list(untried.parameters())


def test_the_log_has_choice_and_times_of_every_shape() -> None:
    clock = ManualClock()
    first, other = Fake(clock, (2e-6, 1e-6, 1e-6)), Fake(clock, (1e-6, 2e-6, 3e-6))
    prepare = choosing(clock, cuBLAS=first.make, Triton=other.make)
    prepare("head", layer())

    prepare.finish()

    assert prepare.report() == (
        "linear layers for up to 1, 16, 64 rows (us for 1, 8, 32): 40x24 Triton / cuBLAS / cuBLAS "
        "(cuBLAS 2.0 1.0 1.0, Triton 1.0 2.0 3.0)"
    )


@pytest.mark.slow
def test_a_loaded_slice_has_chosen(tmp_path: Any) -> None:
    save_tiny("qwen2", tmp_path)
    spec, clock = open_model(str(tmp_path)).spec, ManualClock()
    first, other = Fake(clock, (2e-3, 2e-3, 2e-3)), Fake(clock, (1e-3, 1e-3, 1e-3))
    prepare = choosing(clock, first=first.make, other=other.make)
    form = WeightForm(torch.float32, prepare=prepare)

    slice_ = load_slice(
        tmp_path, spec, cut((spec.layers,))[0], form, lambda _done, _all: None
    ).slice

    assert set(chosen(prepare)) == {("other",) * 3}
    assert not [name for name, _ in slice_.named_parameters() if "qkv" in name or "down" in name]
