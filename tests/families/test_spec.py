"""The arithmetic of models: parameters, bytes, hashes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage, cut

LLAMA_13B = SHAPES["llama-2-13b"]


def test_llama_2_13b_weighs_what_its_papers_say() -> None:
    [whole] = cut((40,))
    assert LLAMA_13B.layer_parameters == 317_204_480
    assert LLAMA_13B.stage_parameters(whole) == 13_015_864_320
    assert LLAMA_13B.kv_bytes_per_token(40, Dtype.FP16) == 819_200
    assert LLAMA_13B.hidden_bytes_per_token(Dtype.FP16) == 10_240


def test_the_reference_split_is_that_of_the_design() -> None:
    slices = [2 * LLAMA_13B.stage_parameters(stage) for stage in cut((13, 14, 13))]
    assert [round(each / 1e9, 2) for each in slices] == [8.57, 8.88, 8.58]


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        ("llama-2-7b", 6.738),
        ("llama-2-70b", 68.977),
        ("llama-3-8b", 8.030),
        ("llama-3.1-8b", 8.030),
        ("llama-3.1-70b", 70.554),
        ("mistral-7b", 7.242),
        ("qwen2.5-7b", 7.616),
        ("qwen3-8b", 8.191),
        ("tinyllama-1.1b", 1.100),
        ("bench-1b", 1.100),
    ],
)
def test_a_shape_has_as_many_parameters_as_its_model_card_says(shape: str, billions: float) -> None:
    spec = SHAPES[shape]
    [whole] = cut((spec.layers,))
    assert spec.stage_parameters(whole) / 1e9 == pytest.approx(billions, abs=0.0006)


def test_every_shape_has_heads_that_make_sense() -> None:
    for name, spec in SHAPES.items():
        assert spec.heads % spec.kv_heads == 0, name
        assert spec.positions.dims == spec.head_dim, name


def test_stages_of_any_cut_hold_the_whole_model() -> None:
    [whole] = cut((40,))
    for counts in ((20, 20), (13, 14, 13), (1, 39)):
        parts = sum(LLAMA_13B.stage_parameters(stage) for stage in cut(counts))
        assert parts == LLAMA_13B.stage_parameters(whole), counts


def test_a_tied_head_costs_memory_only_away_from_the_embedding() -> None:
    tied = replace(LLAMA_13B, head_tied=True)
    [whole], halves = cut((40,)), cut((20, 20))
    table = 32000 * 5120
    assert tied.stage_parameters(whole) == LLAMA_13B.stage_parameters(whole) - table
    assert [tied.stage_parameters(s) for s in halves] == [
        LLAMA_13B.stage_parameters(s) for s in halves
    ]
    assert tied.read_parameters(whole) == LLAMA_13B.read_parameters(whole)


def test_reading_a_step_leaves_the_embedding_out() -> None:
    first = cut((13, 14, 13))[0]
    read = LLAMA_13B.stage_parameters(first) - LLAMA_13B.read_parameters(first)
    assert read == LLAMA_13B.embedding_parameters


def test_the_hash_names_the_mathematics_and_not_the_storage() -> None:
    assert len(LLAMA_13B.spec_hash) == 16
    assert replace(LLAMA_13B, checkpoint_dtype=Dtype.BF16).spec_hash == LLAMA_13B.spec_hash
    assert replace(LLAMA_13B, norm_eps=1e-6).spec_hash != LLAMA_13B.spec_hash
    distinct = {spec.spec_hash for name, spec in SHAPES.items() if name != "bench-1b"}
    assert len(distinct) == len(SHAPES) - 1


def test_a_cut_is_contiguous_with_the_ends_at_the_ends() -> None:
    assert cut((2, 1)) == (
        Stage(LayerRange(0, 2), embedding=True, head=False),
        Stage(LayerRange(2, 3), embedding=False, head=True),
    )
    assert str(cut((2, 1))[0]) == "embedding + layers [0, 2)"
    assert list(LayerRange(3, 5)) == [3, 4]
    with pytest.raises(ValueError, match="not a range"):
        LayerRange(3, 2)
