"""From a Hugging Face config to a `ModelSpec`: finds the family and lets its file read on.

A new family is a new file and an entry of `_FAMILIES`. Whatever is not listed is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families import llama, mistral, qwen2, qwen3
from edgeserve.families.keys import Config, KeyTable
from edgeserve.families.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class _Family:
    """What describes it, and how it is found: by `architectures`, or by `model_type` without."""

    architecture: str
    keys: KeyTable
    describe: Callable[[Config], ModelSpec]


_FAMILIES = {
    "llama": _Family(architecture="LlamaForCausalLM", keys=llama.KEYS, describe=llama.describe),
    "mistral": _Family(
        architecture="MistralForCausalLM", keys=mistral.KEYS, describe=mistral.describe
    ),
    "qwen2": _Family(architecture="Qwen2ForCausalLM", keys=qwen2.KEYS, describe=qwen2.describe),
    "qwen3": _Family(architecture="Qwen3ForCausalLM", keys=qwen3.KEYS, describe=qwen3.describe),
}
"""By `model_type`."""


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What a config.json says."""

    spec: ModelSpec
    warnings: tuple[str, ...]
    """A sentence for each thing in it that is ignored."""


def describe(hf: Mapping[str, Any]) -> ModelSpec:
    """Raises UnsupportedModel for what no test covers, BadModel for what makes no sense."""
    return describe_fully(hf).spec


def describe_fully(hf: Mapping[str, Any]) -> ModelDescription:
    """`describe`, and what the operator should be told."""
    name = _family_name(hf)
    family = _FAMILIES[name]
    config = Config(hf, family.keys, name)
    return ModelDescription(spec=family.describe(config), warnings=tuple(config.warnings))


def _family_name(hf: Mapping[str, Any]) -> str:
    architectures, model_type = hf.get("architectures"), hf.get("model_type")
    if architectures is not None and not isinstance(architectures, list):
        raise BadModel(f'config.json: "architectures" is {architectures!r}; a list is needed')
    named = architectures[0] if architectures else None
    for name, family in _FAMILIES.items():
        if named == family.architecture or (named is None and model_type == name):
            _refuse_contradiction(name, named, model_type)
            return name
    said = f'"architectures": ["{named}"]' if named else f'"model_type": "{model_type}"'
    supported = ", ".join(each.architecture for each in _FAMILIES.values())
    code = "; code that comes with a model is never run" if hf.get("auto_map") else ""
    raise UnsupportedModel(f"config.json: {said} is not supported; supported are {supported}{code}")


def _refuse_contradiction(family: str, named: object, model_type: object) -> None:
    if model_type not in (None, family):
        raise UnsupportedModel(
            f'config.json: "architectures" says {named}, but "model_type" says {model_type}; '
            f"for that architecture {family} is supported"
        )
