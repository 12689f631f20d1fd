"""What becomes of a key of a config.json that no table lists: refused, or accepted with a warning.

Makers, trainers and converters write keys of their own beside those of the model's class. A feature
that has weights shows in the checkpoint, where a tensor too many is refused. What is left are
features without weights: a scale, a cap, a window, another activation. So a key is refused if its
name has a word of the computation, or if it may be a misspelt key of ours. Any other cannot change
what is computed: the reference reads no keys but those of the class.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

_COMPUTING = frozenset({
    # what is computed
    "act", "activation", "alibi", "attention", "attn", "bias", "bidirectional", "block", "causal",
    "centered", "chunk", "chunked", "clamp", "clip", "conv", "cross", "decoder", "deepnorm",
    "differential", "div", "divide", "divisor", "encoder", "expert", "experts", "ffn", "fn",
    "forward", "gate", "gated", "gating", "gelu", "glu", "hadamard", "interleave", "interleaved",
    "layernorm", "linear", "ln", "logn", "loop", "loops", "lora", "mamba", "mask", "mixture", "mlp",
    "moe", "mtp", "multiplier", "multiply", "mup", "nonlinear", "nonlinearity", "norm",
    "normalization", "normalize", "normalized", "norms", "offset", "parallel", "permute", "pooling",
    "prenorm", "proj", "projection", "recurrence", "recurrent", "relu", "relu2", "residual", "rms",
    "rmsnorm", "rnn", "rotate", "router", "routing", "sandwich", "share", "shared", "sharing",
    "shift", "silu", "sink", "sinks", "skip", "softcap", "softcapping", "softmax", "sparse",
    "sparsity", "ssm", "swiglu", "temp", "tie", "tied", "tying",
    # its numbers
    "alpha", "beta", "cap", "channels", "depth", "dim", "dims", "embd", "embed", "embedding",
    "embeddings", "eps", "epsilon", "factor", "gamma", "groups", "head", "heads", "hidden",
    "intermediate", "k", "kv", "layer", "layers", "logit", "logits", "n", "num", "q", "qk", "qkv",
    "query", "rescale", "scale", "scaled", "scales", "scaling", "size", "theta", "v", "vocab",
    "width",
    # where a token is, and what it sees
    "freq", "freqs", "frequency", "gptj", "longrope", "mrope", "neox", "nope", "ntk", "pos",
    "position", "positional", "positions", "rope", "rotary", "sliding", "swa", "window", "windows",
    "yarn",
    # other weights, and other inputs
    "4bit", "8bit", "adapter", "adapters", "audio", "awq", "bits", "bnb", "compression", "fp8",
    "gptq", "image", "modality", "multimodal", "quant", "quantization", "quantize", "quantized",
    "text", "video", "vision",
})  # fmt: skip
"""Words of a key's name, which underscores, points and capitals divide."""

_TRAINING = frozenset({
    "dropout", "epoch", "epochs", "gradient", "init", "initializer", "learning", "loss", "lr",
    "optimizer", "pdrop", "seed", "train", "trainer", "training", "warmup",
})  # fmt: skip
"""With one of these a name speaks of the training, whatever its other words."""

_SILENT_PREFIXES = ("unsloth_", "tokenizer_", "_name_or_path")
"""Of libraries whose keys are in so many files that nobody needs to be told about them."""

_ALIKE = 0.8
"""From which on a name counts as a misspelt key: hiden_size, max_positon_embeddings."""


def is_silent(key: str) -> bool:
    """Whether nobody needs to be told of it."""
    return key.startswith(_SILENT_PREFIXES)


def may_compute(key: str) -> bool:
    """Whether a name that no table lists may stand for something that changes the answers."""
    words = _words(key)
    return _TRAINING.isdisjoint(words) and not _COMPUTING.isdisjoint(words)


def misspelt(key: str, shaping: Collection[str]) -> str | None:
    """The key of `shaping` that may be meant."""
    near = difflib.get_close_matches(key.lower(), sorted(shaping), n=1, cutoff=_ALIKE)
    return near[0] if near else None


def _words(key: str) -> set[str]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return {word for word in re.split(r"[^A-Za-z0-9]+", apart.lower()) if word}
