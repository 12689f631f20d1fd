"""config.json of much used checkpoints, with every key that their makers wrote.

Each with what it means: layers, hidden, heads, heads of keys, numbers of a head, hidden of the feed
forward, vocabulary, context, whether the head is tied, and how far a token sees.
"""

from __future__ import annotations

from typing import Any

_LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "hidden_act": "silu", "initializer_range": 0.02, "model_type": "llama", "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "use_cache": True,
}  # fmt: skip
_LLAMA_3: dict[str, Any] = {
    **_LLAMA, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "mlp_bias": False,
    "max_position_embeddings": 131072, "num_key_value_heads": 8, "rope_theta": 500000.0,
    "vocab_size": 128256,
}  # fmt: skip
_LLAMA_3_ROPE = {
    "factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3",
}  # fmt: skip
_SMOL: dict[str, Any] = {
    **_LLAMA, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.041666666666666664,
    "is_llama_config": True, "max_position_embeddings": 8192, "rope_interleaved": False,
    "rope_theta": 100000, "tie_word_embeddings": True, "transformers_version": "4.40.1",
    "vocab_size": 49152,
}  # fmt: skip
_MISTRAL: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "initializer_range": 0.02, "model_type": "mistral",
    "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.0.dev0", "use_cache": True,
}  # fmt: skip
_QWEN_2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "initializer_range": 0.02,
    "max_position_embeddings": 32768, "model_type": "qwen2", "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.1", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 152064,
}  # fmt: skip
_QWEN_3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "initializer_range": 0.02, "max_position_embeddings": 40960, "model_type": "qwen3",
    "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip


def _sized(layers: int, hidden: int, heads: int, ffn: int) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "intermediate_size": ffn,
    }  # fmt: skip


Meaning = tuple[int, int, int, int, int, int, int, int, bool, int | None]

CHECKPOINTS: dict[str, tuple[dict[str, Any], Meaning]] = {
    "huggyllama/llama-7b": (
        {
            **_sized(32, 4096, 32, 11008), "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "initializer_range": 0.02, "max_position_embeddings": 2048,
            "max_sequence_length": 2048, "model_type": "llama", "pad_token_id": 0,
            "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.28.0.dev0", "use_cache": True, "vocab_size": 32000,
        },
        (32, 4096, 32, 32, 128, 11008, 32000, 2048, False, None),
    ),
    "meta-llama/Llama-2-7b-chat-hf": (
        {
            **_sized(32, 4096, 32, 11008), "_name_or_path": "meta-llama/Llama-2-7b-chat-hf",
            "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096,
            "model_type": "llama", "num_key_value_heads": 32, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.32.0.dev0", "use_cache": True,
            "vocab_size": 32000,
        },
        (32, 4096, 32, 32, 128, 11008, 32000, 4096, False, None),
    ),
    "lmsys/vicuna-7b-v1.5-16k": (
        {
            **_sized(32, 4096, 32, 11008), "_name_or_path": "vicuna-7b-v1.5-16k",
            "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 4096,
            "max_sequence_length": 16384, "model_type": "llama", "num_key_value_heads": 32,
            "pad_token_id": 0, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 4.0, "type": "linear"}, "tie_word_embeddings": False,
            "torch_dtype": "float16", "transformers_version": "4.31.0", "use_cache": True,
            "vocab_size": 32000,
        },
        (32, 4096, 32, 32, 128, 11008, 32000, 4096, False, None),
    ),
    "codellama/CodeLlama-7b-Instruct-hf": (
        {
            **_LLAMA, **_sized(32, 4096, 32, 11008), "bos_token_id": 1, "eos_token_id": 2,
            "max_position_embeddings": 16384, "num_key_value_heads": 32, "rope_theta": 1000000,
            "vocab_size": 32016,
        },
        (32, 4096, 32, 32, 128, 11008, 32016, 16384, False, None),
    ),
    "togethercomputer/LLaMA-2-7B-32K": (
        {
            **_sized(32, 4096, 32, 11008), "architectures": ["LlamaForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_flash_llama.LlamaForCausalLM"},
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "initializer_range": 0.02, "max_position_embeddings": 32768, "model_type": "llama",
            "num_key_value_heads": 32, "pad_token_id": 0, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "type": "linear"},
            "tie_word_embeddings": False, "torch_dtype": "float16",
            "transformers_version": "4.31.0", "use_cache": True, "vocab_size": 32000,
        },
        (32, 4096, 32, 32, 128, 11008, 32000, 32768, False, None),
    ),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": (
        {
            **_LLAMA, **_sized(22, 2048, 32, 5632), "bos_token_id": 1, "eos_token_id": 2,
            "max_position_embeddings": 2048, "num_key_value_heads": 4, "rope_theta": 10000.0,
            "vocab_size": 32000,
        },
        (22, 2048, 32, 4, 64, 5632, 32000, 2048, False, None),
    ),
    "01-ai/Yi-1.5-6B-Chat": (
        {
            **_LLAMA, **_sized(32, 4096, 32, 11008), "bos_token_id": 1, "eos_token_id": 2,
            "max_position_embeddings": 4096, "num_key_value_heads": 4, "pad_token_id": 0,
            "rms_norm_eps": 1e-06, "rope_theta": 5000000.0, "vocab_size": 64000,
        },
        (32, 4096, 32, 4, 128, 11008, 64000, 4096, False, None),
    ),
    "deepseek-ai/deepseek-coder-6.7b-instruct": (
        {
            **_sized(32, 4096, 32, 11008),
            "_name_or_path": "/3fs-jd/prod/deepseek/shared/public_model/coder",
            "architectures": ["LlamaForCausalLM"], "bos_token_id": 32013, "eos_token_id": 32021,
            "hidden_act": "silu", "initializer_range": 0.02, "max_position_embeddings": 16384,
            "model_type": "llama", "num_key_value_heads": 32, "pretraining_tp": 1,
            "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 4.0, "type": "linear"},
            "rope_theta": 100000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.33.1", "use_cache": True, "vocab_size": 32256,
        },
        (32, 4096, 32, 32, 128, 11008, 32256, 16384, False, None),
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": (
        {
            **_LLAMA, **_sized(32, 4096, 32, 14336), "bos_token_id": 128000,
            "eos_token_id": 128009, "max_position_embeddings": 8192, "num_key_value_heads": 8,
            "rope_theta": 500000.0, "vocab_size": 128256,
        },
        (32, 4096, 32, 8, 128, 14336, 128256, 8192, False, None),
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        {
            **_LLAMA_3, **_sized(16, 2048, 32, 8192), "head_dim": 64,
            "rope_scaling": {**_LLAMA_3_ROPE, "factor": 32.0}, "tie_word_embeddings": True,
        },
        (16, 2048, 32, 8, 64, 8192, 128256, 131072, True, None),
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (
        {
            **_LLAMA_3, **_sized(80, 8192, 64, 28672), "head_dim": 128,
            "rope_scaling": _LLAMA_3_ROPE,
        },
        (80, 8192, 64, 8, 128, 28672, 128256, 131072, False, None),
    ),
    "unsloth/Llama-3.2-3B-Instruct": (
        {
            **_LLAMA_3, **_sized(28, 3072, 24, 8192),
            "_attn_implementation_autoset": True, "head_dim": 128, "eos_token_id": 128009,
            "pad_token_id": 128004, "rope_scaling": {**_LLAMA_3_ROPE, "factor": 32.0},
            "tie_word_embeddings": True, "unsloth_fixed": True, "unsloth_version": "2025.1.5",
            "unsloth_training_kwargs": {},
        },
        (28, 3072, 24, 8, 128, 8192, 128256, 131072, True, None),
    ),
    "NousResearch/Hermes-3-Llama-3.1-8B": (
        {
            **_LLAMA_3, **_sized(32, 4096, 32, 14336), "_name_or_path": "meta-llama/Llama-3.1-8B",
            "eos_token_id": 128040, "rope_scaling": _LLAMA_3_ROPE, "use_cache": False,
        },
        (32, 4096, 32, 8, 128, 14336, 128256, 131072, False, None),
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": (
        {
            **_LLAMA_3, **_sized(32, 4096, 32, 14336), "eos_token_id": 128001,
            "rope_scaling": _LLAMA_3_ROPE,
        },
        (32, 4096, 32, 8, 128, 14336, 128256, 131072, False, None),
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": (
        {
            **_SMOL, **_sized(30, 576, 9, 1536), "bos_token_id": 1, "eos_token_id": 2,
            "num_key_value_heads": 3, "pad_token_id": 2,
            "transformers.js_config": {
                "dtype": "q4", "kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"},
            },
        },
        (30, 576, 9, 3, 64, 1536, 49152, 8192, True, None),
    ),
    "HuggingFaceTB/SmolLM2-1.7B": (
        {**_SMOL, **_sized(24, 2048, 32, 8192), "num_key_value_heads": 32, "rope_theta": 130000},
        (24, 2048, 32, 32, 64, 8192, 49152, 8192, True, None),
    ),
    "tiiuae/Falcon3-7B-Instruct": (
        {
            **_LLAMA, **_sized(28, 3072, 12, 23040), "activation": "swiglu", "eos_token_id": 11,
            "head_dim": 256, "max_position_embeddings": 32768, "mlp_bias": False,
            "num_key_value_heads": 4, "pad_token_id": 2023, "rms_norm_eps": 1e-06,
            "rope_theta": 1000042, "sliding_window": None, "vocab_size": 131072,
        },
        (28, 3072, 12, 4, 256, 23040, 131072, 32768, False, None),
    ),
    "ibm-granite/granite-3b-code-base-2k": (
        {
            **_LLAMA, **_sized(32, 2560, 32, 10240), "attention_bias": True,
            "attention_dropout": 0.1, "bos_token_id": 0, "eos_token_id": 0,
            "max_position_embeddings": 2048, "mlp_bias": True, "num_key_value_heads": 32,
            "pad_token_id": 0, "rope_theta": 10000.0, "tie_word_embeddings": True,
            "vocab_size": 49152,
        },
        (32, 2560, 32, 32, 80, 10240, 49152, 2048, True, None),
    ),
    "mistralai/Mistral-7B-v0.1": (
        {
            **_MISTRAL, **_sized(32, 4096, 32, 14336), "max_position_embeddings": 32768,
            "rope_theta": 10000.0, "sliding_window": 4096, "vocab_size": 32000,
        },
        (32, 4096, 32, 8, 128, 14336, 32000, 32768, False, 4096),
    ),
    "mistralai/Mistral-7B-Instruct-v0.3": (
        {
            **_MISTRAL, **_sized(32, 4096, 32, 14336), "max_position_embeddings": 32768,
            "rope_theta": 1000000.0, "vocab_size": 32768,
        },
        (32, 4096, 32, 8, 128, 14336, 32768, 32768, False, None),
    ),
    "mistralai/Mistral-Nemo-Instruct-2407": (
        {
            **_MISTRAL, **_sized(40, 5120, 32, 14336), "head_dim": 128,
            "max_position_embeddings": 131072, "rope_theta": 1000000.0, "vocab_size": 131072,
        },
        (40, 5120, 32, 8, 128, 14336, 131072, 131072, False, None),
    ),
    "mistralai/Ministral-8B-Instruct-2410": (
        {
            **_MISTRAL, **_sized(36, 4096, 32, 12288), "head_dim": 128,
            "max_position_embeddings": 32768, "rope_theta": 100000000.0,
            "sliding_window": 32768, "vocab_size": 131072,
        },
        (36, 4096, 32, 8, 128, 12288, 131072, 32768, False, 32768),
    ),
    "mistralai/Mistral-Small-24B-Instruct-2501": (
        {
            **_MISTRAL, **_sized(40, 5120, 32, 32768), "head_dim": 128,
            "max_position_embeddings": 32768, "rope_theta": 100000000.0, "vocab_size": 131072,
        },
        (40, 5120, 32, 8, 128, 32768, 131072, 32768, False, None),
    ),
    "HuggingFaceH4/zephyr-7b-beta": (
        {
            **_MISTRAL, **_sized(32, 4096, 32, 14336), "_name_or_path": "mistralai/Mistral-7B-v0.1",
            "max_position_embeddings": 32768, "pad_token_id": 2, "rope_theta": 10000.0,
            "sliding_window": 4096, "vocab_size": 32000,
        },
        (32, 4096, 32, 8, 128, 14336, 32000, 32768, False, 4096),
    ),
    "Qwen/Qwen1.5-7B-Chat": (
        {
            **_QWEN_2, **_sized(32, 4096, 32, 11008), "max_window_layers": 28,
            "num_key_value_heads": 32, "vocab_size": 151936,
        },
        (32, 4096, 32, 32, 128, 11008, 151936, 32768, False, None),
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": (
        {
            **_QWEN_2, **_sized(24, 896, 14, 4864), "max_window_layers": 21,
            "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151936,
        },
        (24, 896, 14, 2, 64, 4864, 151936, 32768, True, None),
    ),
    "Qwen/Qwen2.5-Coder-32B-Instruct": (
        {
            **_QWEN_2, **_sized(64, 5120, 40, 27648), "max_window_layers": 64,
            "num_key_value_heads": 8, "sliding_window": 131072,
        },
        (64, 5120, 40, 8, 128, 27648, 152064, 32768, False, None),
    ),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (
        {
            **_QWEN_2, **_sized(28, 1536, 12, 8960), "bos_token_id": 151646,
            "eos_token_id": 151643, "max_position_embeddings": 131072, "max_window_layers": 21,
            "num_key_value_heads": 2, "rope_theta": 10000, "sliding_window": 4096,
            "use_mrope": False, "vocab_size": 151936,
        },
        (28, 1536, 12, 2, 128, 8960, 151936, 131072, False, None),
    ),
    "Qwen/QwQ-32B": (
        {
            **_QWEN_2, **_sized(64, 5120, 40, 27648), "max_position_embeddings": 40960,
            "max_window_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        },
        (64, 5120, 40, 8, 128, 27648, 152064, 40960, False, None),
    ),
    "Qwen/Qwen3-0.6B": (
        {
            **_QWEN_3, **_sized(28, 1024, 16, 3072), "max_window_layers": 28,
            "tie_word_embeddings": True,
        },
        (28, 1024, 16, 8, 128, 3072, 151936, 40960, True, None),
    ),
    "Qwen/Qwen3-4B-Instruct-2507": (
        {
            **_QWEN_3, **_sized(36, 2560, 32, 9728), "max_position_embeddings": 262144,
            "max_window_layers": 36, "rope_theta": 5000000, "tie_word_embeddings": True,
        },
        (36, 2560, 32, 8, 128, 9728, 151936, 262144, True, None),
    ),
    "Qwen/Qwen3-32B": (
        {**_QWEN_3, **_sized(64, 5120, 64, 25600), "max_window_layers": 64},
        (64, 5120, 64, 8, 128, 25600, 151936, 40960, False, None),
    ),
}  # fmt: skip
