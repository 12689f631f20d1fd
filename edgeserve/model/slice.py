"""One stage's share of a model: token ids or hidden states in, hidden states out.

Knows no machine but its own device. The caller holds `torch.inference_mode()`, and has checked what
came from outside.

    T tokens of the frame, D hidden, N rows whose next token is wanted, V vocabulary, L layers of
    the stage
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import Stage
from edgeserve.model.attention import Where
from edgeserve.model.batch import PackedBatch
from edgeserve.model.block import DecoderBlock, RmsNorm
from edgeserve.model.pages import KvPages
from edgeserve.model.positions import angles, frequencies
from edgeserve.model.product import Product, empty_parameter


class Slice(nn.Module):
    """Parameters are allocated on the device and left unfilled; `weights.load_slice` fills them.

    Layers keep the number they have in the model: `layers.13.qkv.weight` is layer 13's, whatever
    the cut.
    """

    def __init__(
        self,
        spec: ModelSpec,
        stage: Stage,
        dtype: torch.dtype,
        device: torch.device | str,
        parameters_on: torch.device | str | None = None,
    ) -> None:
        """`parameters_on="meta"` leaves their memory to be taken as they are filled."""
        super().__init__()
        if stage.layers.end > spec.layers:
            raise ValueError(f"{stage.layers} of a model with {spec.layers} layers")
        self.spec, self.stage = spec, stage
        on = device if parameters_on is None else parameters_on
        self.embedding = _Table(spec, dtype, on) if stage.embedding else None
        self.layers = nn.ModuleDict({
            str(layer): DecoderBlock(spec, dtype, on)
            for layer in range(stage.layers.start, stage.layers.end)
        })  # fmt: skip
        self.final_norm = RmsNorm(spec.hidden, spec.norm_eps, dtype, on) if stage.head else None
        self.head = (
            Product(spec.vocab, spec.hidden, bias=False, dtype=dtype, device=on)
            if stage.head and not (spec.head_tied and stage.embedding)
            else None
        )
        self.frequencies_F = frequencies(spec.positions, device)

    def forward(self, x: Tensor, batch: PackedBatch, pages: KvPages) -> Tensor:
        """`x` is token ids [T] on the first stage, hidden states [T, D] on the others.

        Returns hidden states [T, D], and leaves the keys and values of the tokens in `pages`.
        """
        x_TD = x if self.embedding is None else functional.embedding(x, self.embedding.weight)
        cos_T1F, sin_T1F = angles(batch.positions_T, self.frequencies_F, x_TD.dtype)
        where = Where(
            cos_T1F=cos_T1F,
            sin_T1F=sin_T1F,
            slots_T=batch.slots_T,
            reads=(
                batch.groups(self.spec.window_tokens, x_TD.dtype)
                if x_TD.device.type == "cpu"
                else batch.reads(self.spec.window_tokens)
            ),
        )
        for at, block in enumerate(self.layers.values()):
            x_TD = block(x_TD, where, pages.keys_LPKH[at], pages.values_LPKH[at])
        return x_TD

    def logits(self, hidden_ND: Tensor, into_NV: Tensor | None = None) -> Tensor:
        """fp32 [N, V], in `into_NV` if it is given. Only a stage with the head can say."""
        logits_NV = self._logits(hidden_ND)
        return logits_NV.float() if into_NV is None else into_NV.copy_(logits_NV)

    def _logits(self, hidden_ND: Tensor) -> Tensor:
        """In the dtype of the weights."""
        assert self.final_norm is not None
        normed_ND = self.final_norm(hidden_ND)
        if self.head is None:
            assert self.embedding is not None, "a tied head is the embedding of the same stage"
            return functional.linear(normed_ND, self.embedding.weight)
        logits_NV: Tensor = self.head(normed_ND)
        return logits_NV


class _Table(nn.Module):
    """A row for each token of the vocabulary."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.weight = empty_parameter(spec.vocab, spec.hidden, dtype=dtype, device=device)
