"""One model's numbers, and what follows from them: parameters, bytes, reads.

Plain arithmetic, no tensors. A knob is a property of the mathematics, never a family's name; a new
architecture is a new value here or it is refused. Mutually exclusive choices are unions, so that
impossible models cannot be written down.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal

from edgeserve.frames.stage import LayerRange, Stage

PAGE_TOKENS = 16
"""Tokens of keys and values in one page. vLLM's and TGI's block is 16 too."""


INT4_GROUPS = (128, 64, 32)
"""Numbers of a row that share a scale in int4: the more, the smaller and the coarser."""


class Dtype(StrEnum):
    """What weights are stored as; of keys, values and hidden states see `activation`."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def is_quantised(self) -> bool:
        return self in (Dtype.INT8, Dtype.INT4)

    @property
    def activation(self) -> Dtype:
        """What norms, embedding, keys and values are stored as, and hidden states sent as."""
        return Dtype.BF16 if self.is_quantised else self

    @property
    def of_head(self) -> Dtype:
        """A head in 4 bits would choose other words; it is a small part of a model."""
        return Dtype.INT8 if self is Dtype.INT4 else self

    @property
    def size_bytes(self) -> int:
        """Of one number of `activation`."""
        return 4 if self is Dtype.FP32 else 2

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """A product's weight, scales included."""
        if self is Dtype.INT8:
            return rows * columns + 8 * rows  # a scale in fp32, and the sum that offsets need
        if self is Dtype.INT4:
            return rows * columns // 2 + 4 * rows * (columns // (group_of(columns) or 32))
        return rows * columns * self.size_bytes


def group_of(columns: int) -> int | None:
    """Numbers that share a scale in int4; None if no size divides a row."""
    return next((group for group in INT4_GROUPS if columns % group == 0), None)


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Frequencies stretched smoothly between two wavelengths, as Llama 3.1 does."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Positions divided by a factor."""

    factor: float


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary positions (arXiv:2104.09864) over the first `dims` of each head, in halves."""

    dims: int
    theta: float
    scaling: Llama3Scaling | LinearScaling | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Sizes are counts; a head has `head_dim` numbers."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_hidden: int
    vocab: int
    context_tokens: int
    norm_eps: float
    positions: Rotary
    norm: Literal["rms"] = "rms"
    residual: Literal["sequential"] = "sequential"
    activation: Literal["silu"] = "silu"
    gated: Literal[True] = True
    qkv_bias: bool = False
    attn_out_bias: bool = False
    ffn_bias: bool = False
    qk_norm: bool = False
    """RMS norm of every query and key head before rotation (Qwen3)."""
    window_tokens: int | None = None
    """Each token sees itself and this many minus one before it (Mistral 7B v0.1); None sees all."""
    head_tied: bool = False
    checkpoint_dtype: Dtype = Dtype.FP16
    """What the checkpoint stores. Not part of what the model is: `spec_hash` leaves it out."""

    @property
    def q_rows(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_rows(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share a key."""
        return self.heads // self.kv_heads

    @property
    def layer_parameters(self) -> int:
        """Numbers in one decoder layer."""
        qkv = (self.q_rows + 2 * self.kv_rows) * (self.hidden + self.qkv_bias)
        out = self.hidden * (self.q_rows + self.attn_out_bias)
        ffn = 3 * self.hidden * self.ffn_hidden
        ffn_bias = (2 * self.ffn_hidden + self.hidden) * self.ffn_bias
        norms = 2 * self.hidden + 2 * self.head_dim * self.qk_norm
        return qkv + out + ffn + ffn_bias + norms

    @property
    def embedding_parameters(self) -> int:
        return self.vocab * self.hidden

    @property
    def head_parameters(self) -> int:
        """Final norm and projection. A tied head that is not with the embedding is a copy of it."""
        return self.vocab * self.hidden + self.hidden

    @property
    def parameters(self) -> int:
        """Numbers in the whole model."""
        return self.stage_parameters(Stage(LayerRange(0, self.layers), embedding=True, head=True))

    def stage_parameters(self, stage: Stage) -> int:
        """Numbers that a worker of `stage` holds."""
        shared = self.head_tied and stage.embedding and stage.head
        return (
            len(stage.layers) * self.layer_parameters
            + stage.embedding * (0 if shared else self.embedding_parameters)
            + stage.head * self.head_parameters
        )

    def read_parameters(self, stage: Stage) -> int:
        """Numbers read for one step of one sequence. Of the embedding, one row: nothing."""
        return len(stage.layers) * self.layer_parameters + stage.head * self.head_parameters

    def stage_bytes(self, stage: Stage, dtype: Dtype) -> int:
        """What a worker of `stage` holds in `dtype`, beside pages."""
        return self.stage_parameters(stage) * dtype.size_bytes - self._saved_bytes(stage, dtype)

    def read_bytes(self, stage: Stage, dtype: Dtype) -> int:
        """What one step of one sequence reads of it."""
        return self.read_parameters(stage) * dtype.size_bytes - self._saved_bytes(stage, dtype)

    def _saved_bytes(self, stage: Stage, dtype: Dtype) -> int:
        """By products in fewer bits. A head that is the embedding of its stage has all its bits."""
        is_own_head = stage.head and not (self.head_tied and stage.embedding)
        head = (self.vocab, self.hidden)
        return len(stage.layers) * sum(
            _saved_bytes(dtype, rows, columns)
            for rows, columns in (
                (self.q_rows + 2 * self.kv_rows, self.hidden),
                (self.hidden, self.q_rows),
                (2 * self.ffn_hidden, self.hidden),
                (self.hidden, self.ffn_hidden),
            )
        ) + is_own_head * _saved_bytes(dtype.of_head, *head)

    def kv_bytes_per_token(self, layers: int, dtype: Dtype) -> int:
        """Keys and values of one token on `layers` layers."""
        return 2 * self.kv_rows * dtype.size_bytes * layers

    def hidden_bytes_per_token(self, dtype: Dtype) -> int:
        """What crosses the wire for one token between two stages."""
        return self.hidden * dtype.size_bytes

    @property
    def spec_hash(self) -> str:
        """16 hex digits that two ends compare to know that they mean the same model."""
        numbers = {k: v for k, v in asdict(self).items() if k != "checkpoint_dtype"}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def _saved_bytes(dtype: Dtype, rows: int, columns: int) -> int:
    return rows * columns * dtype.size_bytes - dtype.matrix_bytes(rows, columns)
