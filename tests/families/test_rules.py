"""Every row of every parameter has one source."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest

from edgeserve.families.rules import stage_tensors, unknown_tensors
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import LayerRange, Stage, cut

MIDDLE = Stage(LayerRange(1, 3), embedding=False, head=False)


def biased(spec: ModelSpec) -> ModelSpec:
    return replace(spec, qkv_bias=True, attn_out_bias=True, ffn_bias=True)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shape", ["llama-3-8b", "qwen2.5-7b", "qwen3-8b"])
def test_sources_fill_each_target_from_top_to_bottom_once(shape: str, tied: bool) -> None:
    spec = biased(replace(SHAPES[shape], head_tied=tied))
    for stage in cut((10, spec.layers - 10)):
        filled: dict[str, int] = defaultdict(int)
        numbers = 0
        for each in stage_tensors(spec, stage):
            assert each.rows_start == filled[each.target], each
            assert each.rows_end - each.rows_start == each.shape[0], each
            filled[each.target] = each.rows_end
            numbers += each.shape[0] * (each.shape[1] if len(each.shape) == 2 else 1)
        assert numbers == spec.stage_parameters(stage)


def test_the_sources_of_a_qwen_2_layer_are_these() -> None:
    spec = SHAPES["qwen2.5-7b"]
    found = stage_tensors(spec, Stage(LayerRange(5, 6), embedding=False, head=False))
    p = "model.layers.5."
    assert [(s.name, s.target, s.rows_start, s.rows_end) for s in found] == [
        (p + "input_layernorm.weight", "layers.5.attn_norm.weight", 0, 3584),
        (p + "post_attention_layernorm.weight", "layers.5.ffn_norm.weight", 0, 3584),
        (p + "self_attn.q_proj.weight", "layers.5.qkv.weight", 0, 3584),
        (p + "self_attn.k_proj.weight", "layers.5.qkv.weight", 3584, 4096),
        (p + "self_attn.v_proj.weight", "layers.5.qkv.weight", 4096, 4608),
        (p + "self_attn.q_proj.bias", "layers.5.qkv.bias", 0, 3584),
        (p + "self_attn.k_proj.bias", "layers.5.qkv.bias", 3584, 4096),
        (p + "self_attn.v_proj.bias", "layers.5.qkv.bias", 4096, 4608),
        (p + "self_attn.o_proj.weight", "layers.5.attn_out.weight", 0, 3584),
        (p + "mlp.gate_proj.weight", "layers.5.gate_up.weight", 0, 18944),
        (p + "mlp.up_proj.weight", "layers.5.gate_up.weight", 18944, 37888),
        (p + "mlp.down_proj.weight", "layers.5.down.weight", 0, 3584),
    ]


def test_a_tied_head_reads_the_embedding_where_there_is_none() -> None:
    tied = replace(SHAPES["llama-3-8b"], head_tied=True)
    first, last = cut((16, 16))
    embedding = "model.embed_tokens.weight"
    assert (embedding, "head.weight") in {(s.name, s.target) for s in stage_tensors(tied, last)}
    assert "head.weight" not in {s.target for s in stage_tensors(tied, cut((32,))[0])}
    assert "lm_head.weight" not in {s.name for s in stage_tensors(tied, last)}
    assert stage_tensors(tied, first)[0].target == "embedding.weight"


def test_only_norms_are_called_norms() -> None:
    found = stage_tensors(SHAPES["qwen3-8b"], cut((36,))[0])
    norms = {each.name.split(".")[-2] for each in found if each.is_norm}
    assert norms == {"input_layernorm", "post_attention_layernorm", "q_norm", "k_norm", "norm"}


@pytest.mark.parametrize(
    ("name", "is_unknown"),
    [
        ("model.layers.1.self_attn.q_proj.weight", False),
        ("model.layers.1.self_attn.q_proj.bias", True),
        ("model.layers.2.self_attn.q_norm.weight", True),
        ("model.layers.3.self_attn.q_proj.bias", False),  # another stage's business
        ("model.layers.1.self_attn.rotary_emb.inv_freq", False),
        ("model.layers.32.mlp.up_proj.weight", True),  # the spec has 32 layers
        ("model.vision.weight", True),
        ("lm_head.weight", False),
    ],
)
def test_a_stage_knows_which_names_are_strange(name: str, is_unknown: bool) -> None:
    found = unknown_tensors(SHAPES["llama-3-8b"], MIDDLE, iter([name]))
    assert found == ([name] if is_unknown else [])


def test_the_head_of_a_tied_model_is_no_stranger() -> None:
    tied = replace(SHAPES["llama-3-8b"], head_tied=True)
    assert unknown_tensors(tied, cut((32,))[0], iter(["lm_head.weight"])) == []
