"""Products in 8 and 4 bits are as wrong as their steps are wide, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgeserve.errors import UnsupportedModel
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.frames.stage import cut
from edgeserve.model import int8 as int8_module
from edgeserve.model.int8 import INT8_WAYS, Int8Way, first_right, int8, int8_way, int8_widened
from edgeserve.model.product import Kernel, MakeKernel, Product
from edgeserve.model.quantised import Quantise, int4, int4_widened
from edgeserve.model.weights import Filling, WeightForm, load_slice
from tests.model.stages import Fed, Stages
from tests.model.tiny import save_tiny

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "edgeserve" / "demo"
KERNELS = [int8, int8_widened, int4, int4_widened]


def uneven(rows: int, columns: int) -> Tensor:
    """Rows and groups of very different size, and off centre, so that no scale fits another's."""
    generator = torch.Generator().manual_seed(0)
    size_RG = 10 ** torch.empty(rows, columns // 32).uniform_(-1, 1, generator=generator)
    weight = torch.randn(rows, columns // 32, 32, generator=generator) + 0.5
    return (weight * size_RG[..., None]).view(rows, columns)


def half_steps(make: MakeKernel, weight: Tensor) -> Tensor:
    """How far each number may be off: half of what its scale resolves."""
    if make in (int8, int8_widened):
        return (weight.abs().amax(1, keepdim=True) / 254).expand_as(weight)
    group = next(each for each in (128, 64, 32) if weight.shape[1] % each == 0)
    grouped = weight.view(len(weight), -1, group)
    steps = (grouped.amax(-1) - grouped.amin(-1)) / 15
    return (steps / 2).repeat_interleave(group, dim=1)


@pytest.mark.parametrize("shape", [(64, 256), (96, 192), (48, 32)], ids=str)
@pytest.mark.parametrize("make", KERNELS)
def test_every_number_is_off_by_half_a_step_at_most(
    make: MakeKernel, shape: tuple[int, int]
) -> None:
    weight = uneven(*shape)
    back = make(weight.clone(), None)(torch.eye(shape[1])).T
    off = (back - weight).abs() / half_steps(make, weight)
    # Scales and offsets of int4 are held in bf16: 16 steps of 0.4 % are some hundredths of a step,
    # and an offset far from zero is rounded itself.
    largest = 1.02 if make in (int8, int8_widened) else 1.6
    assert off.max() < largest
    assert 0.4 < off.mean() < 0.6, "errors of rounding are even between 0 and half a step"


@pytest.mark.parametrize(
    ("make", "largest"), [(int8, 0.02), (int8_widened, 0.02), (int4, 0.14), (int4_widened, 0.14)]
)
@pytest.mark.parametrize("tokens", [1, 7])
def test_products_with_a_bias_are_near(make: MakeKernel, largest: float, tokens: int) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(64, 128), 50 * torch.randn(64)
    x = torch.randn(tokens, 128) * torch.logspace(-2, 2, tokens)[:, None]
    exact = x @ weight.T
    error = make(weight.clone(), bias)(x) - bias - exact
    assert (error.norm(dim=1) / exact.norm(dim=1)).max() < largest


@pytest.mark.parametrize("make", [int8, int8_widened])
def test_a_token_gets_the_same_beside_a_much_larger_one(make: MakeKernel) -> None:
    multiply = make(torch.randn(64, 128), None)
    small, large = torch.randn(1, 128), 1e4 * torch.randn(1, 128)
    both_rows = multiply(torch.cat((small, large)))
    torch.testing.assert_close(both_rows[:1], multiply(small), atol=1e-4, rtol=0)


@pytest.mark.parametrize("make", KERNELS)
def test_rows_of_zeros_give_zeros(make: MakeKernel) -> None:
    multiply = make(torch.zeros(16, 64), None)
    assert torch.equal(multiply(torch.zeros(2, 64)), torch.zeros(2, 16))


def test_rows_whose_groups_do_not_come_out_are_refused_in_four_bits() -> None:
    product = Product(16, 56, bias=False, dtype=torch.float32, device="cpu")
    with pytest.raises(UnsupportedModel, match=r"rows of layers\.3\.down have 56; .*--dtype int8"):
        Quantise(dtype=Dtype.INT4)("layers.3.down", product)


def test_the_head_keeps_eight_bits() -> None:
    product = Product(64, 128, bias=False, dtype=torch.float32, device="cpu")
    product.weight.normal_()
    prepare = Quantise(dtype=Dtype.INT4)
    prepare("head", product)
    assert prepare.errors[torch.Size((64, 128))] < 0.02


def test_what_is_reported_is_the_error_that_was_made() -> None:
    prepare = Quantise(dtype=Dtype.INT8)
    product = Product(256, 512, bias=False, dtype=torch.bfloat16, device="cpu")
    product.weight.normal_()
    weight = product.weight.float()
    prepare("layers.0.qkv", product)
    x = torch.randn(50, 512).bfloat16()
    exact = x.float() @ weight.T
    percent = 100 * float((product(x).float() - exact).norm() / exact.norm())
    said = prepare.report()
    assert said.startswith("int8: products differ by ")
    assert float(said.split()[4]) == pytest.approx(percent, abs=0.3)
    assert f" % from bf16, one result by 0.0{said.partition('by 0.0')[2][0]} standard " in said
    assert said.endswith(f"; int8 {int8_way().name}")


# -- processors that add pairs of products in 16 bits


def saturating(largest: int, limit: int = 2**15 - 1) -> MakeKernel:
    """int8 as a processor without VNNI multiplies: two products of whole numbers, the token's
    counted from zero, are added in 16 bits, and stay at `limit`.
    """

    def make(weight: Tensor, _bias: Tensor | None) -> Kernel:
        scale_R = weight.abs().amax(1).clamp_min(1e-12) / 127
        whole_RC = (weight / scale_R[:, None]).round()

        def multiply(x: Tensor) -> Tensor:
            range_T1 = x.abs().amax(1, keepdim=True)
            steps_TC = (x / range_T1 * largest).round() + largest + 1
            products = steps_TC[:, None] * whole_RC
            pairs = products[..., 0::2] + products[..., 1::2]
            sums_TR: Tensor = pairs.clamp(-limit - 1, limit).sum(-1) - (largest + 1) * whole_RC.sum(
                1
            )
            return sums_TR * scale_R * range_T1 / largest

        return multiply

    return make


def no_such_product(_weight: Tensor, _bias: Tensor | None) -> Kernel:
    raise RuntimeError("didn't find engine for operation quantized::linear_prepack")


def way(name: str, make: MakeKernel) -> Int8Way:
    return Int8Way(name=name, make=make)


def test_a_way_that_overflows_is_found_out_and_passed_over() -> None:
    ways = (
        way("missing", no_such_product),
        way("8 bits", saturating(127)),
        way("8 bits, nearly right", saturating(66)),
        way("7 bits", saturating(63)),
        way("widened", int8_widened),
    )
    assert first_right(ways).name == "7 bits"
    assert first_right((way("8 bits", saturating(127, limit=2**31)), *ways)).name == "8 bits"
    assert first_right(ways[:3]).name == "8 bits, nearly right", "the last, if none is right"


def test_every_way_that_this_processor_computes_rightly_is_as_exact() -> None:
    torch.manual_seed(0)
    ways = INT8_WAYS[INT8_WAYS.index(int8_way()) :]
    assert len(ways) >= 2, "widening alone is no fast product"
    for columns, mean, largest in ((64, 0.011, 0.07), (2048, 0.013, 0.07)):
        weight, x = torch.randn(256, columns), torch.randn(16, columns)
        exact = x @ weight.T
        for each in ways:
            off = each.make(weight.clone(), None)(x) - exact
            assert off.norm() / exact.norm() < mean, each.name
            assert off.abs().max() / exact.std() < largest, each.name


@pytest.mark.parametrize("columns", [64, 63])
def test_what_would_overflow_is_multiplied_apart(columns: int) -> None:
    """Nothing is lost, and nothing left that is too large."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4096, columns, generator=generator).clamp(-2.5, 2.5)
    whole, _ = int8_module.round_rows(weight)
    left = whole.clone()
    rest = int8_module._take_out_rest(left)
    assert 0.01 < len(rest.value) / whole.numel() < 0.06
    put_back = left.int().index_put((rest.row, rest.column), rest.value.int(), accumulate=True)
    assert torch.equal(put_back, whole.int())
    pairs = left[:, : columns // 2 * 2].int().view(4096, -1, 2)
    for sign in (1, -1):
        sums = (sign * pairs).clamp_min(0).sum(-1)
        assert sums.max() <= 128, "times 255 is below 2^15"


def test_two_passes_keep_fourteen_bits_of_a_token() -> None:
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (64, 256)).float()
    weight[:, 0] = 127  # so that whole numbers are what they are
    x = torch.randn(8, 256)
    off = int8_module.int8_two_passes(weight.clone(), None)(x) - x @ weight.T
    assert off.norm() / (x @ weight.T).norm() < 2e-4


def test_rows_of_large_numbers_are_multiplied_rightly_too() -> None:
    torch.manual_seed(0)
    weight = torch.where(torch.rand(64, 256) < 0.5, -1.0, 1.0)
    x = torch.randn(8, 256).sign()
    for each in INT8_WAYS[INT8_WAYS.index(int8_way()) :]:
        torch.testing.assert_close(each.make(weight.clone(), None)(x), x @ weight.T)


def test_the_report_shows_a_product_that_overflows() -> None:
    """Overall it is hardly worse; what tells it is the worst of the results."""
    off = dict[str, float]()
    for name, make in (("right", int8), ("wrong", saturating(127))):
        prepare = Quantise(dtype=Dtype.INT8, make_int8=make)
        product = Product(256, 64, bias=False, dtype=torch.bfloat16, device="cpu")
        product.weight.normal_(generator=torch.Generator().manual_seed(3))
        prepare("layers.0.qkv", product)
        said = prepare.report()
        off[name] = float(said.partition("one result by ")[2].split()[0])
    assert off["right"] < 0.07
    assert off["wrong"] > 0.3


def test_one_product_at_a_time_is_there_in_full(tmp_path: Path) -> None:
    save_tiny("llama3", tmp_path, intermediate_size=64)
    spec, seen = open_model(str(tmp_path)).spec, list[str]()
    left = Quantise(dtype=Dtype.INT8)
    alive: list[Product] = []

    class Watching:
        def __call__(self, name: str, product: Product) -> None:
            alive.append(product)
            full = [each for each in alive if list(each.parameters())]
            assert full == [product], f"{len(full)} products in full at {name}"
            left(name, product)
            seen.append(name)

        def finish(self) -> None:
            pass

        def report(self) -> str:
            return ""

    stage = cut((spec.layers,))[0]
    form = WeightForm(torch.bfloat16, prepare=Watching())
    slice_ = load_slice(tmp_path, spec, stage, form, lambda _done, _total: None).slice
    assert len(seen) == 4 * spec.layers + 1
    assert {name.rpartition(".")[2] for name, _ in slice_.named_parameters()} == {"weight"}
    assert not [name for name, _ in slice_.named_parameters() if "qkv" in name or "down" in name]


def test_all_products_are_full_in_the_same_two_places(tmp_path: Path) -> None:
    """In the files, the output of attention lies among queries, keys and values."""
    save_tiny("llama3", tmp_path, intermediate_size=64)
    spec, places = open_model(str(tmp_path)).spec, list[tuple[int, int]]()
    alive = list[torch.UntypedStorage]()
    prepare = Quantise(dtype=Dtype.INT8)

    class Watching:
        def __call__(self, name: str, product: Product) -> None:
            places.append((product.weight.data_ptr(), product.weight.untyped_storage().nbytes()))
            alive.append(product.weight.untyped_storage())
            prepare(name, product)

        def finish(self) -> None:
            pass

        def report(self) -> str:
            return ""

    form = WeightForm(torch.bfloat16, prepare=Watching(), quantised="int8")
    load_slice(tmp_path, spec, cut((spec.layers,))[0], form, lambda _done, _total: None)

    largest = max(2 * spec.ffn_hidden, spec.vocab) * spec.hidden
    assert len(places) == 4 * spec.layers + 1
    assert len(set(places)) == 2
    assert {size for _, size in places} == {2 * largest, 2 * spec.hidden * spec.q_rows}


def test_numbers_among_those_of_another_product_keep_their_place(tmp_path: Path) -> None:
    save_tiny("llama3", tmp_path, intermediate_size=64)
    spec = open_model(str(tmp_path)).spec
    form = WeightForm(torch.bfloat16, prepare=Quantise(dtype=Dtype.INT8), quantised="int8")
    filling = Filling(spec, cut((spec.layers,))[0], form)
    sources = {each.name: each for each in filling.sources}
    gate, up, down = (
        sources[f"model.layers.0.mlp.{name}_proj.weight"] for name in ("gate", "up", "down")
    )

    filling.rows(gate).fill_(1.0)
    filling.rows(down).fill_(2.0)
    filling.filled(down)

    assert (filling.rows(gate) == 1.0).all()
    filling.rows(up).fill_(3.0)
    filling.filled(gate)
    filling.filled(up)
    x = torch.ones(1, spec.hidden, dtype=torch.bfloat16)
    out = filling.slice.get_submodule("layers.0.gate_up")(x)
    assert out[0, :: spec.ffn_hidden].tolist() == [spec.hidden, 3 * spec.hidden]


# -- whole models, against fp32


def both(folder: Path, ids: list[int], dtype: Dtype) -> tuple[Tensor, Tensor]:
    """Logits of the prompt in fp32 and in `dtype`."""
    spec: ModelSpec = open_model(str(folder)).spec
    pages = tuple(range((len(ids) - 1) // 16 + 1))
    exact = Stages(folder, spec, (spec.layers,))
    made = Stages(folder, spec, (spec.layers,), torch.bfloat16, Quantise(dtype=dtype))
    [want], [got] = (each.frame(Fed(pages, 0, ids)) for each in (exact, made))
    return want, got


def error_and_agreement(want: Tensor, got: Tensor) -> tuple[float, float]:
    """Of logits around their mean, which changes nothing; and of next tokens."""
    centred = want - want.mean(-1, keepdim=True)
    error = (got - got.mean(-1, keepdim=True) - centred).norm() / centred.norm()
    return float(error), float((want.argmax(-1) == got.argmax(-1)).float().mean())


@pytest.mark.parametrize(
    ("dtype", "error_at_most", "agreement_at_least"),
    [(Dtype.INT8, 0.08, 0.9), (Dtype.INT4, 0.55, 0.4)],
)
@pytest.mark.parametrize("family", ["llama3", "qwen2", "qwen3"])
def test_a_random_model_stays_near_fp32(  # rows of 32 numbers average little out
    tmp_path: Path, family: str, dtype: Dtype, error_at_most: float, agreement_at_least: float
) -> None:
    save_tiny(
        family, tmp_path, intermediate_size=64, **({"head_dim": 8} if family == "qwen3" else {})
    )
    ids = torch.randint(99, (200,), generator=torch.Generator().manual_seed(1)).tolist()
    error, agreement = error_and_agreement(*both(tmp_path, ids, dtype))
    print(f"{family} {dtype}: logits differ by {error:.3f}, {agreement:.3f} of tokens agree")
    assert error < error_at_most
    assert agreement >= agreement_at_least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "error_at_most", "agreement_at_least"),
    [(Dtype.INT8, 0.04, 0.97), (Dtype.INT4, 0.17, 0.95)],
)
def test_the_demo_model_stays_near_fp32(
    dtype: Dtype, error_at_most: float, agreement_at_least: float
) -> None:
    ids = _story(300)
    error, agreement = error_and_agreement(*both(DEMO, ids, dtype))
    print(f"demo {dtype}: logits differ by {error:.3f}, {agreement:.3f} of tokens agree")
    assert error < error_at_most
    assert agreement >= agreement_at_least


def _story(tokens: int) -> list[int]:
    """What the demo model itself tells, so that the tokens are of its kind."""
    spec = open_model(str(DEMO)).spec
    stages, ids = Stages(DEMO, spec, (spec.layers,)), [1]
    generator = torch.Generator().manual_seed(0)
    pages = tuple(range(tokens // 16 + 1))
    while len(ids) < tokens:
        [logits] = stages.frame(Fed(pages, len(ids) - 1, ids[-1:]))
        ids.append(int(logits[-1].softmax(-1).multinomial(1, generator=generator)))
    return ids
