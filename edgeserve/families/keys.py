"""Reads a Hugging Face config.json by a family's table: each key is used, harmless, or demanded.

A key that is in no column stops the reading: silently ignoring one knob gives a model that runs and
is wrong. Null is the same as absence. Refuses to know what the keys mean.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeserve.errors import BadModel, UnsupportedModel

SIZE_MAX = 2**24
"""No published size is above it (the longest context is 10 million tokens)."""

EVERYWHERE_HARMLESS = frozenset({
    # who wrote the file, and with what
    "_name_or_path", "architectures", "model_type", "transformers_version", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation", "unsloth_version", "unsloth_fixed",
    # training
    "attention_dropout", "hidden_dropout", "initializer_range", "gradient_checkpointing",
    "finetuning_task", "problem_type", "id2label", "label2id", "output_router_logits",
    # what transformers returns and keeps, not what it computes
    "use_cache", "return_dict", "output_attentions", "output_hidden_states", "torchscript",
    "chunk_size_feed_forward", "pretraining_tp", "cross_attention_hidden_size", "is_decoder",
    "use_bfloat16", "tf_legacy_loss",
    # the tokenizer's and the generation's business
    "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "tokenizer_class", "prefix",
    "task_specific_params", "max_length", "max_new_tokens", "min_length", "do_sample",
    "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "begin_suppress_tokens", "suppress_tokens",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values",
    "exponential_decay_length_penalty", "max_sequence_length",
})  # fmt: skip

EVERYWHERE_MUST_EQUAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "quantization_config": (None,),
    "pruned_heads": (None, {}),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "tie_encoder_decoder": (None, False),
    "partial_rotary_factor": (None, 1, 1.0),
    "auto_map": (None,),  # code that comes with the model: never run, so never known
}

EVERYWHERE_USED = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
    "rope_theta", "rope_scaling", "rope_parameters", "torch_dtype", "dtype",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class KeyTable:
    """One family's own keys, beside those that mean the same everywhere."""

    used: frozenset[str] = frozenset()
    harmless: frozenset[str] = frozenset()
    must_equal: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """The values that are supported, for each key."""

    @property
    def known(self) -> frozenset[str]:
        demanded = frozenset(self.must_equal) | frozenset(EVERYWHERE_MUST_EQUAL)
        return self.used | EVERYWHERE_USED | self.harmless | EVERYWHERE_HARMLESS | demanded


class Config:
    """A config.json whose every key is in the family's table. Raises UnsupportedModel otherwise."""

    def __init__(self, raw: Mapping[str, Any], table: KeyTable, family: str) -> None:
        self.family = family
        self._raw = raw
        for key, value in raw.items():
            self._refuse_unknown(key, value, table)
            for demands in (EVERYWHERE_MUST_EQUAL, table.must_equal):
                if key in demands and not any(_same(value, each) for each in demands[key]):
                    raise self.unsupported(key, _spoken(demands[key]))

    def has(self, key: str) -> bool:
        """Whether the key is there at all, be it null."""
        return key in self._raw

    def value(self, key: str) -> Any:
        return self._raw.get(key)

    def size(self, key: str, default: int | None = None) -> int:
        """A whole number above 0. Without `default` the key is needed."""
        value = self._needed(key, default)
        if type(value) is not int or not 0 < value <= SIZE_MAX:
            raise self.bad(key, f"a whole number from 1 to {SIZE_MAX}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self._needed(key, default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise self.bad(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._needed(key, default)
        if type(value) is not bool:
            raise self.bad(key, "true or false")
        return value

    def bad(self, key: str, wanted: str) -> BadModel:
        return BadModel(f"config.json: {_pair(key, self.value(key))}; {wanted} is needed")

    def unsupported(self, key: str, supported: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"config.json: {_pair(key, self.value(key))} is not supported; "
            f"for a {self.family} model {supported} is"
        )

    def _needed(self, key: str, default: Any) -> Any:
        value = self.value(key)
        if value is None:
            value = default
        if value is None:
            raise BadModel(f'config.json has no "{key}"; a {self.family} model needs one')
        return value

    def _refuse_unknown(self, key: str, value: Any, table: KeyTable) -> None:
        if key in table.known:
            return
        near = difflib.get_close_matches(key, sorted(table.known), n=1)
        shaping = sorted(EVERYWHERE_USED | table.used | frozenset(table.must_equal))
        hint = f'did you mean "{near[0]}"?' if near else f"supported are {', '.join(shaping)}"
        raise UnsupportedModel(
            f"config.json: {_pair(key, value)} is a key that no {self.family} model has here, "
            f"and ignoring it could give wrong answers; {hint}"
        )


def _pair(key: str, value: Any) -> str:
    text = json.dumps(value, default=str)
    return f'"{key}": {text if len(text) <= 80 else text[:77] + "..."}'


def _spoken(values: tuple[Any, ...]) -> str:
    return " or ".join(json.dumps(value) for value in values)


def _same(value: Any, allowed: Any) -> bool:
    """Python thinks that 1 == True; a config does not."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
