"""Reads a Hugging Face config.json by a family's table: each key is used, harmless, or demanded.

A key that is in no column is refused if its name may mean something that is computed, since
ignoring one knob gives a model that runs and is wrong; otherwise the operator is told of it
(`unknown.py` decides). Null is the same as absence, for every key. Refuses to know what the keys
mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.unknown import is_silent, may_compute, misspelt

SIZE_MAX = 2**24
"""No published size is above it (the longest context is 10 million tokens)."""

UNKNOWN_SHOWN_MAX = 5
"""Of unknown keys in one warning."""

EVERYWHERE_HARMLESS = frozenset({
    # who wrote the file, and with what
    "architectures", "model_type", "transformers_version", "is_llama_config", "_commit_hash",
    "transformers.js_config", "torch_version", "keys_to_ignore_at_inference",
    # how a library computes the same
    "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal",
    "_experts_implementation", "attn_implementation", "use_flash_attn", "use_flash_attention",
    "use_flash_attention_2", "_flash_attn_2_enabled",
    # training
    "attention_dropout", "hidden_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob",
    "attn_pdrop", "embd_pdrop", "resid_pdrop", "ffn_dropout", "mlp_dropout", "layer_dropout",
    "classifier_dropout", "initializer_range", "initializer_factor", "gradient_checkpointing",
    "finetuning_task", "problem_type", "id2label", "label2id", "num_labels", "ignore_index",
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
    "exponential_decay_length_penalty", "max_sequence_length", "seq_length", "model_max_length",
    "unk_token_id", "cls_token_id", "mask_token_id", "add_bos_token",
    "add_eos_token",
})  # fmt: skip

EVERYWHERE_MUST_EQUAL: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "hidden_activation": ("silu",),
    "activation": ("silu", "swiglu"),
    "activation_function": ("silu", "swiglu"),
    "pruned_heads": ({},),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_encoder_decoder": (False,),
    "output_router_logits": (False,),
    "partial_rotary_factor": (1,),
    "rotary_pct": (1,),
    "rope_interleaved": (False,),
    "rope_interleave": (False,),
    "rotary_interleaved": (False,),
    "use_mrope": (False,),
    "use_alibi": (False,),
    "alibi": (False,),
    "use_qk_norm": (False,),
    "qk_norm": (False,),
    "qk_layernorm": (False,),
    "parallel_attn": (False,),
    "use_parallel_residual": (False,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
}
"""What relatives of these families have, and the values with which nothing differs."""

QUANTISED = ("quantization_config", "compression_config", "quantization")
"""Where a checkpoint says that its weights are stored in fewer bits."""

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
    def shaping(self) -> frozenset[str]:
        """Keys that say something about the computation."""
        return self.used | EVERYWHERE_USED | self.demands.keys()

    @property
    def demands(self) -> Mapping[str, tuple[Any, ...]]:
        """A family's own go first; a key that it uses is not demanded of it."""
        common = {k: v for k, v in EVERYWHERE_MUST_EQUAL.items() if k not in self.used}
        return {**common, **self.must_equal}

    @property
    def known(self) -> frozenset[str]:
        return self.shaping | self.harmless | EVERYWHERE_HARMLESS


class Config:
    """A config.json that asks for nothing that is not known here. Raises UnsupportedModel for any
    other.
    """

    def __init__(self, raw: Mapping[str, Any], table: KeyTable, family: str) -> None:
        self.family = family
        self._raw = raw
        self.warnings: list[str] = []
        """A sentence for each thing that was ignored and that the operator should know of."""
        demands = table.demands
        for key, value in raw.items():
            if value is None:
                continue
            if key in QUANTISED and value:
                raise self._quantised(key, value)
            if key in demands and not any(_same(value, each) for each in demands[key]):
                raise self.unsupported(key, _spoken(demands[key]))
        self._look_at_code()
        self._look_at_unknown(table)

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

    def _look_at_code(self) -> None:
        """The classes of our families are built in; what a model brings for them is not run."""
        if self.value("auto_map"):
            self.warnings.append(
                f"config.json: {_pair('auto_map', self.value('auto_map'))} names code that comes "
                f"with the model; it is never run, and the model is taken as {self.family}"
            )

    def _look_at_unknown(self, table: KeyTable) -> None:
        known = table.known | {"auto_map", *QUANTISED}
        strange = [
            key
            for key, value in self._raw.items()
            if value is not None and key not in known and not is_silent(key)
        ]
        for key in strange:
            self._refuse_if_it_matters(key, table)
        if strange:
            pairs = ", ".join(_pair(key, self._raw[key]) for key in strange[:UNKNOWN_SHOWN_MAX])
            more = len(strange) - UNKNOWN_SHOWN_MAX
            self.warnings.append(
                f"config.json: {pairs}{f' and {more} more' if more > 0 else ''} "
                f"{'is' if len(strange) == 1 else 'are'} not known for a {self.family} model, and "
                "ignored"
            )

    def _refuse_if_it_matters(self, key: str, table: KeyTable) -> None:
        meant = misspelt(key, table.shaping)
        if meant is None and not may_compute(key):
            return
        listed = ", ".join(sorted(table.shaping))
        raise UnsupportedModel(
            f"config.json: {_pair(key, self._raw[key])} is a key that no {self.family} model has "
            "here, and ignoring it could give wrong answers; "
            + (f'did you mean "{meant}"? ' if meant else f"supported are {listed}. ")
            + "If it changes nothing, take it out of config.json, or make it null"
        )

    def _quantised(self, key: str, value: Any) -> UnsupportedModel:
        method = value.get("quant_method", "") if isinstance(value, Mapping) else ""
        named = f" ({str(method)[:40]})" if method else ""
        return UnsupportedModel(
            f"config.json: {_pair(key, value)}: its weights are quantised{named}, and such "
            "checkpoints are not read; take the model's original one in bf16 or fp16, and --dtype "
            "int8 or int4 makes it as small at load"
        )


def _pair(key: str, value: Any) -> str:
    return f"{_shortened(key)}: {_shortened(value)}"


def _shortened(value: Any) -> str:
    """As JSON, of which every character is printable."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _spoken(values: tuple[Any, ...]) -> str:
    return " or ".join(json.dumps(value) for value in values or (None,))


def _same(value: Any, allowed: Any) -> bool:
    """Python thinks that 1 == True; a config does not."""
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)
