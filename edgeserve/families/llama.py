"""Llama 1 to 3.x, and the many models that are published under its name."""

from __future__ import annotations

from edgeserve.families.decoder import Knobs, decoder, optional_head_dim
from edgeserve.families.keys import Config, KeyTable
from edgeserve.families.spec import ModelSpec
from edgeserve.families.window import refuse_windowed_layers

KEYS = KeyTable(
    used=frozenset({"attention_bias", "mlp_bias", "head_dim", "layer_types"}),
    must_equal={"use_sliding_window": (False,), "sliding_window": ()},
)


def describe(config: Config) -> ModelSpec:
    attention_bias = config.flag("attention_bias", False)
    refuse_windowed_layers(config)
    return decoder(
        config,
        # Llama 1 and 2 7B were published before grouped heads: absent means as many as query heads.
        kv_heads=config.size("num_key_value_heads", config.size("num_attention_heads")),
        head_dim=optional_head_dim(config),
        knobs=Knobs(
            qkv_bias=attention_bias,
            attn_out_bias=attention_bias,
            ffn_bias=config.flag("mlp_bias", False),
        ),
    )
