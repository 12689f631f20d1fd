"""A config becomes exactly its model, or is refused by name."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.describe import describe
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype, LinearScaling, Rotary
from tests.families.published import (
    LLAMA_2_13B,
    LLAMA_3_1_8B,
    MISTRAL_7B,
    PUBLISHED,
    QWEN_2_5_7B,
    QWEN_3_8B,
    respelled,
)


def refusal(config: dict[str, Any], kind: type[BadModel]) -> str:
    with pytest.raises(BadModel) as caught:
        describe(config)
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("shape", PUBLISHED)
def test_a_published_config_is_the_built_in_shape(shape: str) -> None:
    assert describe(PUBLISHED[shape]) == SHAPES[shape]


@pytest.mark.parametrize("shape", PUBLISHED)
def test_both_spellings_of_transformers_mean_the_same(shape: str) -> None:
    assert describe(respelled(PUBLISHED[shape])) == SHAPES[shape]


def test_a_file_without_architectures_goes_by_its_model_type() -> None:
    bare = {k: v for k, v in QWEN_3_8B.items() if k != "architectures"}
    assert describe(bare) == SHAPES["qwen3-8b"]
    assert describe({**bare, "architectures": None}) == SHAPES["qwen3-8b"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, '["GPT2LMHeadModel"] is not supported'),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForCausalLM, Mistral"),
        ({"architectures": None, "model_type": "bloom"}, '"model_type": "bloom" is not supported'),
        ({"architectures": None, "model_type": None}, "is not supported; supported are"),
        ({"model_type": "mistral"}, "says LlamaForCausalLM, but"),
    ],
)
def test_another_architecture_is_refused_with_those_there_are(
    change: dict[str, Any], says: str
) -> None:
    assert says in refusal({**LLAMA_2_13B, **change}, UnsupportedModel)


@pytest.mark.parametrize(
    ("config", "key", "value", "says"),
    [
        (LLAMA_2_13B, "logit_scale", 0.5, '"logit_scale": 0.5'),
        (LLAMA_2_13B, "sliding_windows", 7, '"sliding_windows": 7'),
        (LLAMA_2_13B, "rope_tetha", 1e6, 'did you mean "rope_theta"'),
        (LLAMA_2_13B, "sliding_window", 4096, '"sliding_window": 4096'),
        (LLAMA_2_13B, "num_local_experts", 8, "supported are"),
        (LLAMA_2_13B, "hidden_act", "gelu", '"hidden_act": "gelu" is not supported'),
        (LLAMA_2_13B, "hidden_act", "gelu", 'for a llama model "silu" is'),
        (LLAMA_2_13B, "quantization_config", {"bits": 4}, '"quantization_config": {"bits": 4}'),
        (LLAMA_2_13B, "partial_rotary_factor", 0.5, '"partial_rotary_factor": 0.5'),
        (LLAMA_2_13B, "partial_rotary_factor", True, '"partial_rotary_factor": true'),
        (LLAMA_2_13B, "is_encoder_decoder", True, '"is_encoder_decoder": true'),
        (LLAMA_2_13B, "is_encoder_decoder", 0, '"is_encoder_decoder": 0'),
        (LLAMA_2_13B, "torch_dtype", "float8_e4m3fn", '"torch_dtype": "float8_e4m3fn"'),
        (LLAMA_2_13B, "rope_scaling", {"type": "dynamic", "factor": 2.0}, '"dynamic"'),
        (LLAMA_2_13B, "rope_scaling", {"rope_type": "yarn"}, "rope_type default or linear or"),
        (LLAMA_3_1_8B, "rope_scaling", {**LLAMA_3_1_8B["rope_scaling"], "mscale": 1}, "mscale"),
        (MISTRAL_7B, "attention_bias", True, '"attention_bias": true'),
        (QWEN_2_5_7B, "use_mrope", True, '"use_mrope": true'),
        (QWEN_2_5_7B, "layer_types", ["sliding_attention"] * 28, '"layer_types"'),
        (QWEN_2_5_7B, "layer_types", ["full_attention"] * 27 + ["linear"], '"layer_types"'),
    ],
)  # fmt: skip
def test_a_knob_without_a_test_is_refused_with_its_value(
    config: dict[str, Any], key: str, value: Any, says: str
) -> None:
    assert says in refusal({**config, key: value}, UnsupportedModel)


@pytest.mark.parametrize(
    ("config", "key", "value", "says"),
    [
        (LLAMA_2_13B, "num_key_value_heads", 7, "num_attention_heads 40 is not a multiple of"),
        (LLAMA_2_13B, "hidden_size", 5121, "1 are left over"),
        (LLAMA_2_13B, "hidden_size", 0, '"hidden_size": 0; a whole number from 1'),
        (LLAMA_2_13B, "hidden_size", "5120", '"hidden_size": "5120"'),
        (LLAMA_2_13B, "num_hidden_layers", True, '"num_hidden_layers": true'),
        (LLAMA_2_13B, "vocab_size", 10**12, "from 1 to"),
        (LLAMA_2_13B, "vocab_size", None, 'has no "vocab_size"'),
        (LLAMA_2_13B, "rms_norm_eps", -1e-5, '"rms_norm_eps": -1e-05'),
        (LLAMA_2_13B, "rms_norm_eps", 1.0, "a number below 1"),
        (LLAMA_2_13B, "rope_theta", 0, '"rope_theta": 0'),
        (LLAMA_2_13B, "tie_word_embeddings", "yes", "true or false"),
        (LLAMA_2_13B, "head_dim", 13, "a head has 13 numbers"),
        (LLAMA_2_13B, "architectures", "LlamaForCausalLM", "a list is needed"),
        (LLAMA_2_13B, "rope_scaling", "linear", "an object is needed"),
        (LLAMA_2_13B, "rope_scaling", {"type": "linear"}, "rope_scaling.factor is None"),
        (LLAMA_2_13B, "rope_scaling", {"type": "linear", "factor": -1}, "factor is -1"),
        (
            LLAMA_3_1_8B,
            "rope_scaling",
            {**LLAMA_3_1_8B["rope_scaling"], "low_freq_factor": 9.0},
            "the first must be below the second",
        ),
        (MISTRAL_7B, "num_key_value_heads", None, 'has no "num_key_value_heads"'),
        (MISTRAL_7B, "sliding_window", 0, '"sliding_window": 0'),
        (QWEN_2_5_7B, "layer_types", ["full_attention"], "a list of 28 names"),
        (QWEN_3_8B, "head_dim", None, 'has no "head_dim"'),
    ],
)
def test_a_size_that_makes_no_sense_is_named(
    config: dict[str, Any], key: str, value: Any, says: str
) -> None:
    assert says in refusal({**config, key: value}, BadModel)


def test_two_spellings_that_disagree_are_refused() -> None:
    both = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 5}}
    assert "say different things" in refusal({**LLAMA_2_13B, **both}, BadModel)


def test_mistral_without_a_window_must_say_so() -> None:
    assert describe({**MISTRAL_7B, "sliding_window": None}).window_tokens is None
    silent = {k: v for k, v in MISTRAL_7B.items() if k != "sliding_window"}
    assert 'no "sliding_window"' in refusal(silent, BadModel)


@pytest.mark.parametrize(("first", "window"), [(0, 131072), (28, None), (99, None)])
def test_qwen_windows_are_on_all_layers_or_on_none(first: int, window: int | None) -> None:
    config = {**QWEN_2_5_7B, "use_sliding_window": True, "max_window_layers": first}
    assert describe(config).window_tokens == window
    kind = "full_attention" if window is None else "sliding_attention"
    assert describe({**config, "layer_types": [kind] * 28}).window_tokens == window


def test_qwen_with_a_window_must_say_how_long_it_is() -> None:
    silent = {k: v for k, v in QWEN_2_5_7B.items() if k != "sliding_window"}
    assert describe(silent).window_tokens is None
    assert 'no "sliding_window"' in refusal({**silent, "use_sliding_window": True}, BadModel)


def test_qwen_windows_on_some_layers_are_refused() -> None:
    config = {**QWEN_2_5_7B, "use_sliding_window": True, "max_window_layers": 14}
    assert '"max_window_layers": 14' in refusal(config, UnsupportedModel)


def test_biases_follow_the_config() -> None:
    biased = describe({**LLAMA_2_13B, "attention_bias": True, "mlp_bias": True})
    assert (biased.qkv_bias, biased.attn_out_bias, biased.ffn_bias) == (True, True, True)
    qwen = describe(QWEN_2_5_7B)
    assert (qwen.qkv_bias, qwen.attn_out_bias, qwen.ffn_bias) == (True, False, False)


def test_old_llama_files_mean_what_they_meant() -> None:
    old_keys = ("num_key_value_heads", "rope_scaling", "tie_word_embeddings", "torch_dtype")
    old = describe({k: v for k, v in LLAMA_2_13B.items() if k not in old_keys})
    assert old == SHAPES["llama-2-13b"]


def test_linear_scaling_is_read_in_all_its_spellings() -> None:
    wanted = Rotary(dims=128, theta=10000.0, scaling=LinearScaling(factor=4.0))
    for key in ("type", "rope_type"):
        config = {**LLAMA_2_13B, "rope_scaling": {key: "linear", "factor": 4}}
        assert describe(config).positions == wanted


def test_dtype_goes_before_torch_dtype() -> None:
    assert describe({**LLAMA_2_13B, "dtype": "bfloat16"}).checkpoint_dtype is Dtype.BF16
    assert describe({**LLAMA_2_13B, "dtype": "torch.float32"}).checkpoint_dtype is Dtype.FP32


def test_a_refusal_says_what_is_supported() -> None:
    said = refusal({**LLAMA_2_13B, "zzz_scale": 1}, UnsupportedModel)
    for key in ("hidden_size", "rope_scaling", "attention_bias"):
        assert re.search(rf"supported are .*\b{key}\b", said), key
