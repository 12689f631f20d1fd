"""The same slice, computed with fused kernels: what a GPU runs.

Ten kernels a layer instead of thirty, no copy of a key, and nothing that waits for the device or
depends on the frame but through a `FrameTable`, so that all of it can be recorded in a CUDA graph.
`Slice.forward` is the reference; the tests compare the two for every family. Every knob of a spec
is covered: head norms, biases, windows, and heads of which only a part turns.

    T tokens (or rows of a graph), D hidden, N rows whose next token is wanted, V vocabulary
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeserve.model.frame_table import FrameTable
from edgeserve.model.kernels.attention import Cache, attend
from edgeserve.model.kernels.gate import silu_times_up
from edgeserve.model.kernels.norm import add_and_norm, norm
from edgeserve.model.kernels.rotary import HeadNorms, Turns, rotate_and_write
from edgeserve.model.pages import KvPages
from edgeserve.model.positions import angles
from edgeserve.model.sampling import most_likely
from edgeserve.model.slice import Slice


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Memory that every frame of up to R rows leaves its large results in. Frames are computed one
    after another, and what one leaves is read before the next one starts. Without it each CUDA
    graph would keep results of its own: the logits of 295 rows for eleven graphs, not of 64.
    """

    hidden_RD: Tensor
    logits_RV: Tensor | None
    """fp32; on the last stage only."""

    @classmethod
    def empty(cls, slice_: Slice, kv_pages: KvPages, rows: int) -> Outputs:
        cache, spec = kv_pages.keys_LPKH, slice_.spec
        return cls(
            hidden_RD=cache.new_empty((rows, spec.hidden)),
            logits_RV=(
                cache.new_empty((rows, spec.vocab), dtype=torch.float32)
                if slice_.stage.head
                else None
            ),
        )

    @property
    def rows(self) -> int:
        return len(self.hidden_RD)

    def hidden(self, tokens: int) -> Tensor | None:
        """Room for the hidden states of so many tokens; None if it has none."""
        return self.hidden_RD[:tokens] if tokens <= self.rows else None

    def logits(self, asked: int) -> Tensor | None:
        if self.logits_RV is None or asked > len(self.logits_RV):
            return None
        return self.logits_RV[:asked]


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What a frame gives: hidden states, or on the last stage tokens."""

    out: Tensor
    """[T, D], or [N, 2] as `most_likely` gives it; N as far as there is room for logits."""
    logits_NV: Tensor | None
    """For the rows whose token is not the most likely one, or that want others told."""
    hidden_TD: Tensor
    """For tokens of a prompt that are scored."""


def compute(
    slice_: Slice, x: Tensor, table: FrameTable, kv_pages: KvPages, outputs: Outputs | None = None
) -> Computed:
    """`x` is token ids [T] on the first stage, hidden states [T, D] on the others. What has room in
    `outputs` is there until the next frame is computed. Of the rows that are asked for only so many
    get a token as `outputs` has room for; `choose` is for the others.
    """
    x_TD = forward(slice_, x, table, kv_pages, outputs.hidden(len(x)) if outputs else None)
    if not slice_.stage.head:
        return Computed(out=x_TD, logits_NV=None, hidden_TD=x_TD)
    if table.extent.asked == 0:  # the middle of a prompt
        return Computed(out=x_TD.new_empty((0, 2)), logits_NV=None, hidden_TD=x_TD)
    return choose(slice_, x_TD, table.asked_N[: outputs.rows if outputs else None], outputs)


def choose(
    slice_: Slice, hidden_TD: Tensor, asked_N: Tensor, outputs: Outputs | None = None
) -> Computed:
    """The most likely tokens behind some of the rows, by the last stage."""
    into_NV = outputs.logits(len(asked_N)) if outputs else None
    logits_NV = slice_.logits(hidden_TD.index_select(0, asked_N), into_NV)
    return Computed(out=most_likely(logits_NV), logits_NV=logits_NV, hidden_TD=hidden_TD)


def forward(
    slice_: Slice,
    x: Tensor,
    table: FrameTable,
    kv_pages: KvPages,
    into_TD: Tensor | None = None,
) -> Tensor:
    """Hidden states [T, D], in `into_TD` if it is given; `x` stays as it is."""
    x_TD = x if slice_.embedding is None else functional.embedding(x, slice_.embedding.weight)
    cos_T1F, sin_T1F = angles(table.positions_T, slice_.frequencies_F, torch.float32)
    turns = Turns(cos_TF=cos_T1F[:, 0], sin_TF=sin_T1F[:, 0])
    delta_TD: Tensor | None = None
    blocks: Iterable[Any] = slice_.layers.values()
    for at, block in enumerate(blocks):
        cache = Cache(
            keys_PKH=kv_pages.keys_LPKH[at],
            values_PKH=kv_pages.values_LPKH[at],
            window_tokens=slice_.spec.window_tokens,
        )
        x_TD, normed_TD = _residual(x_TD, delta_TD, block.attn_norm)
        delta_TD = _attention(block, normed_TD, turns, cache, table)
        x_TD, normed_TD = _residual(x_TD, delta_TD, block.ffn_norm)
        delta_TD = block.down(silu_times_up(block.gate_up(normed_TD)))
    assert delta_TD is not None, "a stage has a layer"
    return torch.add(x_TD, delta_TD, out=into_TD)


def _residual(x_TD: Tensor, delta_TD: Tensor | None, rms: Any) -> tuple[Tensor, Tensor]:
    """x plus what the last step added, and the norm of it that the next one reads."""
    if delta_TD is None:
        return x_TD, norm(x_TD, rms.weight, rms.eps)
    return add_and_norm(x_TD, delta_TD, rms.weight, rms.eps)


def _attention(
    block: Any, normed_TD: Tensor, turns: Turns, cache: Cache, table: FrameTable
) -> Tensor:
    q_TNH = rotate_and_write(
        block.qkv(normed_TD), _head_norms(block), turns, table.rows_T8,
        cache.keys_PKH, cache.values_PKH,
    )  # fmt: skip
    out_TD: Tensor = block.attn_out(attend(q_TNH, cache, table))
    return out_TD


def _head_norms(block: Any) -> HeadNorms | None:
    if isinstance(block.q_norm, nn.Identity):
        return None
    return HeadNorms(q_H=block.q_norm.weight, k_H=block.k_norm.weight, eps=block.q_norm.eps)
