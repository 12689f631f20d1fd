"""Reads how positions are rotated.

Transformers 4 spells it rope_theta and rope_scaling, transformers 5 rope_parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.keys import Config
from edgeserve.families.spec import LinearScaling, Llama3Scaling, Rotary

THETA_DEFAULT = 10000.0
"""Llama 2 was published without the key; transformers takes this."""

_NUMBERS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip
"""What each kind of scaling needs, beside its kind and theta."""

_UNREAD = {"original_max_position_embeddings", "finetuned"}
"""What some files say besides, and no kind reads that does not need it."""


def rotary(config: Config, head_dim: int) -> Rotary:
    old, new = config.value("rope_scaling"), config.value("rope_parameters")
    theta = config.number("rope_theta", THETA_DEFAULT)
    found = [
        _read(config, key, theta, head_dim)
        for key, value in (("rope_scaling", old), ("rope_parameters", new))
        if value is not None
    ]
    if len(found) == 2 and found[0] != found[1]:
        raise BadModel(
            "config.json: rope_scaling and rope_parameters say different things; "
            "remove the one that is wrong"
        )
    return found[0] if found else Rotary(dims=head_dim, theta=theta)


def _read(config: Config, key: str, theta: float, head_dim: int) -> Rotary:
    given = config.value(key)
    if not isinstance(given, Mapping):
        raise config.bad(key, "an object")
    values = {name: value for name, value in given.items() if value is not None}
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _NUMBERS:
        raise config.unsupported(key, f"rope_type {' or '.join(_NUMBERS)}")
    allowed = {*_NUMBERS[kind], "rope_type", "type", "rope_theta", "partial_rotary_factor"}
    unknown = sorted(set(values) - allowed - _UNREAD)
    if unknown or values.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModel(
            f"config.json: {key} has {', '.join(unknown) or 'a partial_rotary_factor'}, which is "
            f"not supported; rope_type {kind} may have {', '.join(sorted(allowed))}"
        )
    if config.value("rope_theta") is not None and values.get("rope_theta", theta) != theta:
        raise BadModel(
            f"config.json: rope_theta is {theta:g}, but in {key} it is {values['rope_theta']!r}; "
            "remove the one that is wrong"
        )
    return Rotary(
        dims=head_dim,
        theta=_number(key, values, "rope_theta", theta),
        scaling=_scaling(key, kind, values),
    )


def _scaling(
    key: str, kind: str, values: Mapping[str, Any]
) -> Llama3Scaling | LinearScaling | None:
    numbers = [_number(key, values, name) for name in _NUMBERS[kind]]
    if kind == "linear":
        return LinearScaling(factor=numbers[0])
    if kind == "llama3":
        factor, low, high, original = numbers
        if not low < high:
            raise BadModel(
                f"config.json: {key} has low_freq_factor {low} and high_freq_factor {high}; "
                "the first must be below the second"
            )
        return Llama3Scaling(
            factor=factor,
            low_freq_factor=low,
            high_freq_factor=high,
            original_context_tokens=int(original),
        )
    return None


def _number(key: str, values: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = values.get(name, default)
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise BadModel(f"config.json: {key}.{name} is {value!r}; a number above 0 is needed")
    return float(value)
