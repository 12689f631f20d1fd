"""Tiny random models made by transformers, the reference that ours is compared with.

Every parameter is shaken: a fresh model has zero biases and unit norms, which hide mistakes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

LAYERS = 4
VOCAB = 99  # odd, so that nothing is right by alignment
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
OWN_HEAD = "tied_with_own_head"
"""Its config.json says that it is tied, and its file has another head."""
_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama2": (LlamaConfig, LlamaForCausalLM, {"num_key_value_heads": 4}),
    "llama3": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": _LLAMA3_ROPE}),
    "llama_linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.5}},
    ),
    "llama_biased": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 11, "head_dim": 12}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"use_sliding_window": False}),
    "qwen2_windowed": (
        Qwen2Config,
        Qwen2ForCausalLM,
        {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0},
    ),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 12, "attention_bias": True}),
    "tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    OWN_HEAD: (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": False}),
}
FAMILIES = tuple(_FAMILIES)


def save_tiny(family: str, folder: Path, **config_overrides: Any) -> Any:
    """Writes config.json and safetensors to `folder`; returns the transformers model, fp32.

    The same family gives the same numbers every time.
    """
    config_class, model_class, own = _FAMILIES[family]
    config = config_class(**{**_SIZES, **own, **config_overrides})
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    if family == OWN_HEAD:
        say(folder, tie_word_embeddings=True)
    return model


def say(folder: Path, **keys: Any) -> None:
    """In its config.json, whatever its files hold."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
