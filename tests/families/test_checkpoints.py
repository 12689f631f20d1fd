"""Published files are taken as they are; what would change the answers is refused, and what cannot
is told.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.describe import describe, describe_fully
from edgeserve.families.folder import open_model, told_model
from tests.families.checkpoints import CHECKPOINTS
from tests.families.published import (
    LLAMA_2_13B,
    LLAMA_3_1_8B,
    MISTRAL_7B,
    PUBLISHED,
    QWEN_2_5_7B,
    QWEN_3_8B,
    respelled,
)

ALL = [config for config, _ in CHECKPOINTS.values()]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_published_file_means_what_it_says(name: str) -> None:
    config, meaning = CHECKPOINTS[name]
    spec = describe(config)
    assert meaning == (
        spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn_hidden,
        spec.vocab, spec.context_tokens, spec.head_tied, spec.window_tokens,
    )  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_nothing_of_it_is_unknown(name: str) -> None:
    config, _ = CHECKPOINTS[name]
    warnings = describe_fully(config).warnings
    assert [each for each in warnings if "auto_map" not in each] == []
    assert bool(warnings) == ("auto_map" in config)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_means_the_same_as_transformers_5_writes_it(name: str) -> None:
    config, _ = CHECKPOINTS[name]
    assert describe(respelled(config)) == describe(config)


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_every_key_of_transformers_own_class_is_known(kind: Any) -> None:
    everything = {**kind().to_dict(), "architectures": None}
    assert describe_fully(everything).warnings == ()


# -- null --------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [*PUBLISHED.values(), *ALL])
def test_a_key_that_is_null_is_left_out(config: dict[str, Any]) -> None:
    nulls = dict.fromkeys(
        (
            "sliding_window", "rope_scaling", "rope_parameters", "quantization_config", "auto_map",
            "attention_bias", "mlp_bias", "use_mrope", "use_sliding_window", "layer_types",
            "activation", "rope_interleaved", "partial_rotary_factor", "num_experts", "logit_scale",
            "attn_logit_softcapping", "no_such_key", "pad_token_id", "dtype", "is_encoder_decoder",
        )
    )  # fmt: skip
    said = describe_fully({**nulls, **config})
    assert said.spec == describe(config)
    assert said.warnings == describe_fully(config).warnings


def test_nulls_within_rope_scaling_are_left_out() -> None:
    scaling = {**LLAMA_3_1_8B["rope_scaling"], "type": None, "attention_factor": None}
    assert describe({**LLAMA_3_1_8B, "rope_scaling": scaling}) == describe(LLAMA_3_1_8B)
    nothing = {"rope_type": None, "factor": None}
    assert describe({**LLAMA_2_13B, "rope_scaling": nothing}) == describe(LLAMA_2_13B)


# -- what changes nothing ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("my_note", "made on a Tuesday"),
        ("com.example.provenance", {"commit": "abc", "scales": [1, 2]}),
        ("is_falcon_config", True),
        ("base_model", "meta-llama/Llama-2-13b"),
        ("release_year", 2026),
        ("train_batch_size", 64),
        ("embedding_dropout", 0.1),
        ("router_aux_loss_coef", 0.001),
        ("max_seq_len", 4096),
    ],
)
def test_what_cannot_change_the_answers_is_told_and_taken(key: str, value: Any) -> None:
    said = describe_fully({**LLAMA_2_13B, key: value})
    assert said.spec == describe(LLAMA_2_13B)
    (warning,) = said.warnings
    assert warning.startswith(f'config.json: "{key}": ')
    assert warning.endswith("is not known for a llama model, and ignored")


def test_many_unknown_keys_are_one_bounded_warning() -> None:
    many = {f"note_{i:02}": "x" * 500 for i in range(40)}
    (warning,) = describe_fully({**LLAMA_2_13B, **many}).warnings
    assert " and 35 more are not known" in warning
    assert len(warning) < 700


def test_a_key_is_told_in_a_line_that_no_terminal_obeys() -> None:
    key = "no\x1b[2J\n" + "te" * 5000
    (warning,) = describe_fully({**LLAMA_2_13B, key: 1}).warnings
    assert warning.isprintable()
    assert r'"no\u001b[2J\nte' in warning
    assert len(warning) < 250


def test_a_librarys_own_keys_need_no_words() -> None:
    keys = {"unsloth_anything": {"lora_rank": 8}, "transformers.js_config": {"dtype": "q4"}}
    assert describe_fully({**LLAMA_2_13B, **keys}).warnings == ()


def test_code_that_comes_with_a_model_of_ours_is_not_run_and_told() -> None:
    code = {"AutoModelForCausalLM": "modeling_x.LlamaForCausalLM"}
    said = describe_fully({**LLAMA_2_13B, "auto_map": code})
    assert said.spec == describe(LLAMA_2_13B)
    assert "code that comes with the model; it is never run" in said.warnings[0]
    assert describe_fully({**LLAMA_2_13B, "auto_map": {}}).warnings == ()


def test_code_that_comes_with_another_model_is_refused() -> None:
    other = {"architectures": ["XForCausalLM"], "auto_map": {"AutoModel": "x.X"}}
    with pytest.raises(UnsupportedModel, match="code that comes with a model is never run"):
        describe({**LLAMA_2_13B, **other})


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (LLAMA_2_13B, "activation", "swiglu"),
        (LLAMA_2_13B, "activation", "silu"),
        (LLAMA_2_13B, "rope_interleaved", False),
        (LLAMA_2_13B, "use_sliding_window", False),
        (LLAMA_2_13B, "logit_scale", 1.0),
        (LLAMA_2_13B, "rotary_pct", 1),
        (LLAMA_2_13B, "layer_types", ["full_attention"] * 40),
        (MISTRAL_7B, "layer_types", ["sliding_attention"] * 32),
        (QWEN_2_5_7B, "attention_bias", True),
        (QWEN_2_5_7B, "head_dim", 128),
        (QWEN_3_8B, "use_qk_norm", True),
        (QWEN_3_8B, "mlp_bias", False),
    ],
)
def test_a_knob_that_stands_where_it_changes_nothing_is_taken(
    config: dict[str, Any], key: str, value: Any
) -> None:
    said = describe_fully({**config, key: value})
    assert (said.spec, said.warnings) == (describe(config), ())


def test_the_width_of_a_head_is_read_wherever_it_is_said() -> None:
    assert describe({**QWEN_2_5_7B, "head_dim": 96}).head_dim == 96


# -- what changes something ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (LLAMA_2_13B, "activation", "gelu"),
        (LLAMA_2_13B, "hidden_activation", "gelu_pytorch_tanh"),
        (LLAMA_2_13B, "rope_interleaved", True),
        (LLAMA_2_13B, "use_sliding_window", True),
        (LLAMA_2_13B, "layer_types", ["full_attention"] * 39 + ["sliding_attention"]),
        (LLAMA_2_13B, "attn_logit_softcapping", 50.0),
        (LLAMA_2_13B, "final_logit_softcapping", 30.0),
        (LLAMA_2_13B, "query_pre_attn_scalar", 256),
        (LLAMA_2_13B, "embedding_multiplier", 12.0),
        (LLAMA_2_13B, "residual_multiplier", 0.22),
        (LLAMA_2_13B, "scale_emb", 12),
        (LLAMA_2_13B, "no_rope_layers", [1, 0]),
        (LLAMA_2_13B, "clip_qkv", 8.0),
        (LLAMA_2_13B, "num_experts", 8),
        (LLAMA_2_13B, "n_routed_experts", 64),
        (LLAMA_2_13B, "normType", "layernorm"),
        (LLAMA_2_13B, "use_qk_norm", True),
        (LLAMA_2_13B, "vision_config", {}),
        (LLAMA_2_13B, "dual_chunk_attention_config", {"chunk_size": 262144}),
        (LLAMA_2_13B, "hiden_size", 5120),
        (LLAMA_2_13B, "rms_norm_epss", 1e-6),
        (LLAMA_2_13B, "use_swa", True),
        (LLAMA_2_13B, "bidirectional", True),
        (LLAMA_2_13B, "nonlinearity", "relu2"),
        (LLAMA_2_13B, "num_recurrences", 4),
        (LLAMA_2_13B, "recurrence", 4),
        (LLAMA_2_13B, "loops", 2),
        (LLAMA_2_13B, "logn", True),
        (LLAMA_2_13B, "is_neox_style", False),
        (LLAMA_2_13B, "shared_weights", True),
        (LLAMA_2_13B, "zero_centered", True),
        (LLAMA_2_13B, "depth", 2),
        (LLAMA_2_13B, "output_div", 2.0),
        (MISTRAL_7B, "mlp_bias", True),
        (MISTRAL_7B, "layer_types", ["full_attention"] * 32),
        (QWEN_2_5_7B, "attention_bias", False),
        (QWEN_3_8B, "use_qk_norm", False),
    ],
)  # fmt: skip
def test_what_would_change_the_answers_is_refused_by_name(
    config: dict[str, Any], key: str, value: Any
) -> None:
    with pytest.raises(UnsupportedModel, match=f'"{key}": '):
        describe({**config, key: value})


@pytest.mark.parametrize("kind", [["yarn"], {}, 3])
def test_a_kind_of_rotation_that_is_no_word_is_refused(kind: Any) -> None:
    with pytest.raises(UnsupportedModel, match='"rope_scaling": .* rope_type default or linear'):
        describe({**LLAMA_2_13B, "rope_scaling": {"rope_type": kind}})


def test_a_refusal_of_an_unknown_key_has_a_cure() -> None:
    with pytest.raises(UnsupportedModel, match="take it out of config.json, or make it null"):
        describe({**LLAMA_2_13B, "attn_logit_softcapping": 50.0})
    with pytest.raises(UnsupportedModel, match='did you mean "hidden_size"'):
        describe({**LLAMA_2_13B, "hiden_size": 5120})


@pytest.mark.parametrize(
    ("key", "value", "method"),
    [
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, r" \(gptq\)"),
        ("quantization_config", {"quant_method": "fp8"}, r" \(fp8\)"),
        ("quantization_config", {"load_in_4bit": True}, ""),
        ("compression_config", {"format": "pack-quantized"}, ""),
    ],
)
def test_a_quantised_checkpoint_is_refused_with_the_cure(
    key: str, value: dict[str, Any], method: str
) -> None:
    with pytest.raises(UnsupportedModel, match=f"weights are quantised{method}, .*--dtype int8"):
        describe({**LLAMA_2_13B, key: value})


def test_two_bases_of_the_rotation_are_refused() -> None:
    both = {"rope_theta": 10000.0, "rope_parameters": {"rope_theta": 500000.0}}
    with pytest.raises(BadModel, match="rope_theta is 10000, but in rope_parameters"):
        describe({**LLAMA_2_13B, **both})
    same = {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500000, "rope_type": "default"}}
    assert describe({**LLAMA_2_13B, **same}).positions.theta == 5e5


# -- whom it reaches -----------------------------------------------------------------------------


def test_a_folder_has_the_warnings_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_2_13B, "my_note": "x"}))
    (warning,) = open_model(str(tmp_path)).warnings
    assert '"my_note": "x" is not known' in warning
    assert told_model("x", (tmp_path / "config.json").read_bytes()).warnings == (warning,)
    assert open_model("llama-2-13b").warnings == ()
    assert open_model("demo").warnings == ()
