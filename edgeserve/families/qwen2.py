"""Qwen 2 and 2.5: Llama with biases on queries, keys and values."""

from __future__ import annotations

from edgeserve.families.decoder import Knobs, decoder, optional_head_dim
from edgeserve.families.keys import Config, KeyTable
from edgeserve.families.spec import ModelSpec
from edgeserve.families.window import window_by_layer

KEYS = KeyTable(
    used=frozenset({
        "use_sliding_window", "sliding_window", "max_window_layers", "layer_types", "head_dim",
    }),
    must_equal={"attention_bias": (True,), "mlp_bias": (False,)},
)  # fmt: skip


def describe(config: Config) -> ModelSpec:
    return decoder(
        config,
        kv_heads=config.size("num_key_value_heads"),
        head_dim=optional_head_dim(config),
        knobs=Knobs(
            qkv_bias=True,
            window_tokens=window_by_layer(config, config.size("num_hidden_layers")),
        ),
    )
