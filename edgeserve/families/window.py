"""Reads how far back a token sees. All layers must agree: a spec has one window, or none."""

from __future__ import annotations

from edgeserve.errors import BadModel
from edgeserve.families.keys import Config

_FULL, _SLIDING = "full_attention", "sliding_attention"


def refuse_windowed_layers(config: Config) -> None:
    """Llama: every token sees all before it, on every layer."""
    _refuse_other_kinds(config, _FULL)


def window_of_all_layers(config: Config) -> int | None:
    """Mistral: `sliding_window` holds on every layer, null is none."""
    window = _window(config)
    _refuse_other_kinds(config, _FULL if window is None else _SLIDING)
    return window


def window_by_layer(config: Config, layers: int) -> int | None:
    """Qwen: `use_sliding_window` switches; `layer_types` or `max_window_layers` say where."""
    is_windowed = config.flag("use_sliding_window", False)
    if is_windowed and not config.has("sliding_window"):
        # transformers would take 4096; but a file without the key is not one that it wrote.
        raise BadModel(
            'config.json has "use_sliding_window" and no "sliding_window"; a number of tokens or '
            "null is needed"
        )
    window = _window(config) if is_windowed else None
    kinds = set(_layer_types(config, layers, window))
    if kinds == {_FULL}:
        return None
    if kinds == {_SLIDING} and window is not None:
        return window
    key = "max_window_layers" if config.value("layer_types") is None else "layer_types"
    raise config.unsupported(key, "the same attention on all layers")


def _window(config: Config) -> int | None:
    return None if config.value("sliding_window") is None else config.size("sliding_window")


def _refuse_other_kinds(config: Config, kind: str) -> None:
    """For families whose layers are all alike, whatever a file says of each."""
    if config.value("layer_types") is None:
        return
    if set(_layer_types(config, config.size("num_hidden_layers"), None)) != {kind}:
        raise config.unsupported("layer_types", f"{kind} on all layers")


def _layer_types(config: Config, layers: int, window: int | None) -> list[str]:
    given = config.value("layer_types")
    if given is not None:
        if not isinstance(given, list) or len(given) != layers:
            raise config.bad("layer_types", f"a list of {layers} names, one for each layer")
        return [str(each) for each in given]
    if window is None:
        return [_FULL] * layers
    first = config.value("max_window_layers")
    if type(first) is not int or first < 0:
        raise config.bad("max_window_layers", "a whole number of layers")
    return [_SLIDING if layer >= first else _FULL for layer in range(layers)]
