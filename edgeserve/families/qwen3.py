"""Qwen 3, dense: no biases, but every query and key head is normed before it is rotated."""

from __future__ import annotations

from edgeserve.families.decoder import Knobs, decoder
from edgeserve.families.keys import Config, KeyTable
from edgeserve.families.spec import ModelSpec
from edgeserve.families.window import window_by_layer

KEYS = KeyTable(
    used=frozenset({
        "head_dim", "attention_bias", "use_sliding_window", "sliding_window", "max_window_layers",
        "layer_types",
    }),
    must_equal={"mlp_bias": (False,), "use_qk_norm": (True,), "qk_norm": (True,)},
)  # fmt: skip


def describe(config: Config) -> ModelSpec:
    attention_bias = config.flag("attention_bias", False)
    return decoder(
        config,
        kv_heads=config.size("num_key_value_heads"),
        head_dim=config.size("head_dim"),
        knobs=Knobs(
            qkv_bias=attention_bias,
            attn_out_bias=attention_bias,
            qk_norm=True,
            window_tokens=window_by_layer(config, config.size("num_hidden_layers")),
        ),
    )
