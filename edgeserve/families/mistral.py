"""Mistral 7B and its relatives: Llama with a window, and heads of any width."""

from __future__ import annotations

from edgeserve.errors import BadModel
from edgeserve.families.decoder import Knobs, decoder, optional_head_dim
from edgeserve.families.keys import Config, KeyTable
from edgeserve.families.spec import ModelSpec
from edgeserve.families.window import window_of_all_layers

KEYS = KeyTable(
    used=frozenset({"sliding_window", "head_dim", "layer_types"}),
    must_equal={"attention_bias": (False,), "mlp_bias": (False,)},
)


def describe(config: Config) -> ModelSpec:
    if not config.has("sliding_window"):
        # transformers would take 4096; but a file without the key is not one that it wrote.
        raise BadModel(
            'config.json has no "sliding_window"; a mistral model needs a number of tokens or null'
        )
    return decoder(
        config,
        kv_heads=config.size("num_key_value_heads"),
        head_dim=optional_head_dim(config),
        knobs=Knobs(window_tokens=window_of_all_layers(config)),
    )
