"""Published models' sizes, to plan, rehearse and measure without their weights. Random weights are
used with them.
"""

from __future__ import annotations

from dataclasses import replace

from edgeserve.families.spec import Dtype, Llama3Scaling, ModelSpec, Rotary

_LLAMA_2_7B = ModelSpec(
    family="llama",
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=32,
    head_dim=128,
    ffn_hidden=11008,
    vocab=32000,
    context_tokens=4096,
    norm_eps=1e-5,
    positions=Rotary(dims=128, theta=10000.0),
)
_LLAMA_2_70B = replace(_LLAMA_2_7B, layers=80, hidden=8192, heads=64, kv_heads=8, ffn_hidden=28672)
_LLAMA_3_8B = replace(
    _LLAMA_2_7B,
    kv_heads=8,
    ffn_hidden=14336,
    vocab=128256,
    context_tokens=8192,
    positions=Rotary(dims=128, theta=500000.0),
    checkpoint_dtype=Dtype.BF16,
)
_LLAMA_3_1_8B = replace(
    _LLAMA_3_8B,
    context_tokens=131072,
    positions=Rotary(
        dims=128,
        theta=500000.0,
        scaling=Llama3Scaling(
            factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_tokens=8192
        ),
    ),
)
_TINYLLAMA = replace(
    _LLAMA_2_7B,
    layers=22,
    hidden=2048,
    kv_heads=4,
    head_dim=64,
    ffn_hidden=5632,
    context_tokens=2048,
    positions=Rotary(dims=64, theta=10000.0),
    checkpoint_dtype=Dtype.BF16,
)
_QWEN_2_5_7B = ModelSpec(
    family="qwen2",
    layers=28,
    hidden=3584,
    heads=28,
    kv_heads=4,
    head_dim=128,
    ffn_hidden=18944,
    vocab=152064,
    context_tokens=131072,
    norm_eps=1e-6,
    positions=Rotary(dims=128, theta=1000000.0),
    qkv_bias=True,
    checkpoint_dtype=Dtype.BF16,
)
_QWEN_3_8B = ModelSpec(
    family="qwen3",
    layers=36,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    ffn_hidden=12288,
    vocab=151936,
    context_tokens=40960,
    norm_eps=1e-6,
    positions=Rotary(dims=128, theta=1000000.0),
    qk_norm=True,
    checkpoint_dtype=Dtype.BF16,
)

SHAPES: dict[str, ModelSpec] = {
    "llama-2-7b": _LLAMA_2_7B,
    "llama-2-13b": replace(
        _LLAMA_2_7B, layers=40, hidden=5120, heads=40, kv_heads=40, ffn_hidden=13824
    ),
    "llama-2-70b": _LLAMA_2_70B,
    "llama-3-8b": _LLAMA_3_8B,
    "llama-3.1-8b": _LLAMA_3_1_8B,
    "llama-3.1-70b": replace(_LLAMA_3_1_8B, layers=80, hidden=8192, heads=64, ffn_hidden=28672),
    "mistral-7b": replace(  # v0.1, the one with the window
        _LLAMA_3_8B,
        family="mistral",
        vocab=32000,
        context_tokens=32768,
        positions=Rotary(dims=128, theta=10000.0),
        window_tokens=4096,
    ),
    "qwen2.5-7b": _QWEN_2_5_7B,
    "qwen3-8b": _QWEN_3_8B,
    "tinyllama-1.1b": _TINYLLAMA,
    "bench-1b": _TINYLLAMA,  # its own name, so that a measurement does not pose as TinyLlama
}
