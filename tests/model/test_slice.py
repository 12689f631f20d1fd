"""Slices compute what transformers computes, however the layers are cut and the tokens are fed."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from edgeserve.frames.stage import LayerRange, Stage, cut
from edgeserve.model.batch import PackedBatch, PagedSegment
from edgeserve.model.layouts import LAYOUTS
from edgeserve.model.pages import KvPages
from edgeserve.model.slice import Slice
from tests.model.stages import Fed, Forced, GetTiny, Stages, Tiny, can_be_made
from tests.model.tiny import FAMILIES, LAYERS, VOCAB

TOKENS = 41
"""Three pages, the last one partly filled; several times the windows of the tiny models."""
CUTS = [(4,), (1, 3), (2, 2), (3, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]
CONSECUTIVE = (4, 5, 6)
SCATTERED = (9, 2, 17)


def ids_of(seed: int, tokens: int = TOKENS) -> list[int]:
    return torch.randint(VOCAB, (tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def expected(model: Tiny, ids: list[int]) -> Tensor:
    logits: Tensor = model.reference(torch.tensor([ids])).logits[0]
    return logits


def assert_same(ours: Tensor, theirs: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("layer_counts", CUTS, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_cut_gives_the_logits_of_transformers(
    tiny: GetTiny, family: str, layer_counts: tuple[int, ...]
) -> None:
    model, ids = tiny(family), ids_of(1)
    stages = Stages(model.folder, model.spec, layer_counts)
    [logits] = stages.frame(Fed(CONSECUTIVE, 0, ids))
    assert_same(logits, expected(model, ids))


@pytest.mark.parametrize("pages", [CONSECUTIVE, SCATTERED], ids=["consecutive", "scattered"])
@pytest.mark.parametrize("chunk", [1, 6, 16, 30])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_the_logits_of_the_whole(
    tiny: GetTiny, family: str, chunk: int, pages: tuple[int, ...]
) -> None:
    model, ids = tiny(family), ids_of(2)
    stages = Stages(model.folder, model.spec, (1, 2, 1))
    parts = [
        stages.frame(Fed(pages, start, ids[start : start + chunk]))[0]
        for start in range(0, TOKENS, chunk)
    ]
    assert_same(torch.cat(parts), expected(model, ids))


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"fp16 blocks"}))  # it would round fp32
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_of_the_weights_gives_the_logits_of_transformers(
    tiny: GetTiny, family: str, layout: str
) -> None:
    model, ids = tiny(family), ids_of(12)
    stages = Stages(model.folder, model.spec, (2, 2), prepare=Forced(LAYOUTS[layout]))
    want = expected(model, ids)
    for start, end in ((0, 30), (30, 31), (31, 40), (40, 41)):
        [logits] = stages.frame(Fed(SCATTERED, start, ids[start:end]))
        assert_same(logits, want[start:end])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_greedy_decoding_in_bf16_does_not_depend_on_the_layout(tiny: GetTiny, layout: str) -> None:
    if not can_be_made(layout, torch.bfloat16):
        pytest.skip(f"this processor has no {layout} weights in bf16")
    model, ids = tiny("qwen2"), ids_of(13)
    plain = Stages(model.folder, model.spec, (4,), torch.bfloat16)
    other = Stages(model.folder, model.spec, (4,), torch.bfloat16, Forced(LAYOUTS[layout]))
    [want], [got] = (each.frame(Fed(CONSECUTIVE, 0, ids)) for each in (plain, other))
    assert_same(got, want, atol=0.06)  # one step of bf16 between 4 and 8 is 0.03
    assert (got.argmax(-1) == want.argmax(-1)).float().mean() > 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_sequences_do_not_see_each_other(tiny: GetTiny, family: str) -> None:
    model = tiny(family)
    stages = Stages(model.folder, model.spec, (2, 2))
    a, b, c = ids_of(3), ids_of(4), ids_of(5)
    on_a, on_b, on_c = CONSECUTIVE, SCATTERED, (20, 21, 0)
    # a decodes, b begins, c is in the middle of its prompt: what a busy frame holds.
    stages.frame(Fed(on_a, 0, a[:20]), Fed(on_c, 0, c[:9]))
    first = stages.frame(Fed(on_b, 0, b[:18]), Fed(on_a, 20, a[20:21]), Fed(on_c, 9, c[9:30]))
    second = stages.frame(Fed(on_a, 21, a[21:22]), Fed(on_b, 18, b[18:19]), Fed(on_c, 30, c[30:]))
    want_a, want_b, want_c = (expected(model, each) for each in (a, b, c))
    for got, want in zip(first, (want_b[:18], want_a[20:21], want_c[9:30]), strict=True):
        assert_same(got, want)
    for got, want in zip(second, (want_a[21:22], want_b[18:19], want_c[30:]), strict=True):
        assert_same(got, want)


def test_a_smaller_position_rewinds_the_sequence(tiny: GetTiny) -> None:
    model = tiny("llama3")
    stages = Stages(model.folder, model.spec, (2, 2))
    kept, dropped, taken = ids_of(6, 20), ids_of(7, 15), ids_of(8, 10)
    stages.frame(Fed(CONSECUTIVE, 0, [*kept, *dropped]))
    [logits] = stages.frame(Fed(CONSECUTIVE, 20, taken))
    assert_same(logits, expected(model, [*kept, *taken])[20:])


@pytest.mark.parametrize("family", ["llama2", "llama3", "mistral", "qwen2", "qwen3"])
def test_greedy_decoding_is_that_of_transformers(tiny: GetTiny, family: str) -> None:
    model, prompt, new_tokens = tiny(family), ids_of(9, 12), 24
    theirs = model.reference.generate(
        torch.tensor([prompt]), max_new_tokens=new_tokens, do_sample=False, eos_token_id=None
    )[0].tolist()
    stages = Stages(model.folder, model.spec, (1, 2, 1))
    ours, fed = list(prompt), 0
    while len(ours) < len(prompt) + new_tokens:
        [logits] = stages.frame(Fed(SCATTERED, fed, ours[fed:]))
        fed = len(ours)
        ours.append(int(logits[-1].argmax()))
    assert ours == theirs


@pytest.mark.parametrize("family", ["llama2", "qwen2", "qwen3"])
def test_bf16_differs_from_transformers_by_rounding_only(tiny: GetTiny, family: str) -> None:
    model, ids = tiny(family), ids_of(10)
    [fp32] = Stages(model.folder, model.spec, (4,)).frame(Fed(CONSECUTIVE, 0, ids))
    [bf16] = Stages(model.folder, model.spec, (4,), torch.bfloat16).frame(Fed(CONSECUTIVE, 0, ids))
    assert bf16.dtype == torch.float32
    # 8 bits of mantissa: an error of some 1 % of logits of size 4 is what transformers has too.
    assert 0 < (bf16 - fp32).abs().mean() < 0.05


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer_counts", [(4,), (1, 3), (2, 1, 1)], ids=str)
def test_the_spec_counts_the_parameters_of_a_stage(
    tiny: GetTiny, family: str, layer_counts: tuple[int, ...]
) -> None:
    spec = tiny(family).spec
    for stage in cut(layer_counts):
        slice_ = Slice(spec, stage, torch.float32, "meta")
        counted = sum(each.numel() for each in slice_.parameters())
        assert counted == spec.stage_parameters(stage), f"{family}, {stage}"


def test_a_whole_model_has_as_many_parameters_as_transformers_counts(tiny: GetTiny) -> None:
    for family in FAMILIES:
        model = tiny(family)
        theirs = sum(each.numel() for each in model.reference.parameters())
        assert model.spec.stage_parameters(cut((LAYERS,))[0]) == theirs, family


def test_a_page_costs_what_the_spec_says(tiny: GetTiny) -> None:
    spec = tiny("mistral").spec
    pages = KvPages(spec, 3, 5, torch.bfloat16, "cpu")
    # 16 tokens, keys and values, 2 heads of 12 numbers, 2 bytes each, 3 layers
    assert pages.bytes_per_page == 16 * 2 * 2 * 12 * 2 * 3
    assert pages.keys_LPKH.nbytes + pages.values_LPKH.nbytes == 5 * pages.bytes_per_page


def test_a_stage_beyond_the_last_layer_is_refused(tiny: GetTiny) -> None:
    stage = Stage(LayerRange(2, 5), embedding=False, head=True)
    with pytest.raises(ValueError, match=r"layers \[2, 5\) of a model with 4 layers"):
        Slice(tiny("llama2").spec, stage, torch.float32, "meta")


def test_a_frame_writes_no_page_but_its_own(tiny: GetTiny) -> None:
    model = tiny("llama2")
    spec, stage = model.spec, cut((LAYERS,))[0]
    slice_ = Slice(spec, stage, torch.float32, "cpu")
    for parameter in slice_.parameters():
        parameter.fill_(0.01)
    pages = KvPages(spec, LAYERS, 6, torch.float32, "cpu")
    batch = PackedBatch.build([PagedSegment((4, 1), 14, 4)], "cpu")
    slice_(torch.tensor([1, 2, 3, 4]), batch, pages)
    written = pages.keys_LPKH[0].flatten(1).any(dim=1).nonzero().flatten().tolist()
    assert written == [16, 17, 4 * 16 + 14, 4 * 16 + 15]


def test_importing_the_model_starts_no_gpu() -> None:
    assert "edgeserve.model.weights" in sys.modules
    assert not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    assert "triton" not in vars(sys.modules["edgeserve.model.attention"])
