"""What Llama and its relatives have in common: the sizes, and how their config.json spells them."""

from __future__ import annotations

from dataclasses import dataclass

from edgeserve.errors import BadModel
from edgeserve.families.keys import Config
from edgeserve.families.rotary import rotary
from edgeserve.families.spec import Dtype, ModelSpec

_DTYPES = {"float32": Dtype.FP32, "bfloat16": Dtype.BF16, "float16": Dtype.FP16}


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """Where the relatives differ."""

    qkv_bias: bool = False
    attn_out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    window_tokens: int | None = None


def decoder(config: Config, *, kv_heads: int, head_dim: int | None, knobs: Knobs) -> ModelSpec:
    """`head_dim` None: hidden divided by heads."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if head_dim is None:
        head_dim = _whole(hidden, heads, "hidden_size", "num_attention_heads")
    _whole(heads, kv_heads, "num_attention_heads", "num_key_value_heads")
    if head_dim % 2:
        raise BadModel(f"config.json: a head has {head_dim} numbers; rotation needs an even count")
    if config.number("rms_norm_eps") >= 1:
        raise config.bad("rms_norm_eps", "a number below 1, such as 1e-5,")
    return ModelSpec(
        family=config.family,
        layers=config.size("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden=config.size("intermediate_size"),
        vocab=config.size("vocab_size"),
        context_tokens=config.size("max_position_embeddings"),
        norm_eps=config.number("rms_norm_eps"),
        positions=rotary(config, head_dim),
        qkv_bias=knobs.qkv_bias,
        attn_out_bias=knobs.attn_out_bias,
        ffn_bias=knobs.ffn_bias,
        qk_norm=knobs.qk_norm,
        window_tokens=knobs.window_tokens,
        head_tied=config.flag("tie_word_embeddings", False),
        checkpoint_dtype=_checkpoint_dtype(config),
    )


def optional_head_dim(config: Config) -> int | None:
    return None if config.value("head_dim") is None else config.size("head_dim")


def _whole(total: int, part: int, total_key: str, part_key: str) -> int:
    if total % part:
        raise BadModel(
            f"config.json: {total_key} {total} is not a multiple of {part_key} {part}, "
            f"{total % part} are left over"
        )
    return total // part


def _checkpoint_dtype(config: Config) -> Dtype:
    """`dtype` is transformers 5, and wins there too. Files older than the key are fp16."""
    key = "torch_dtype" if config.value("dtype") is None else "dtype"
    name = config.value(key)
    if name is None:
        return Dtype.FP16
    known = _DTYPES.get(str(name).removeprefix("torch."))
    if known is None:
        raise config.unsupported(key, " or ".join(_DTYPES))
    return known
