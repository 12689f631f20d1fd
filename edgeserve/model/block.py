"""The one decoder block, for every family: the spec says which biases and norms it has.

x ──┬─ attn_norm ─ qkv ─ (q_norm, k_norm) ─ rotate ─ attend ─ attn_out ─┐
    └─────────────────────────────────────────────────────────────────── + ─ y
y ──┬─ ffn_norm ─ gate_up ─ silu(gate) * up ─ down ─┐
    └─────────────────────────────────────────────── + ─ out

T tokens, D hidden, N query heads, K key/value heads, H head dim, P slots
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeserve.families.spec import ModelSpec
from edgeserve.model.attention import Where, attend, write
from edgeserve.model.positions import rotate
from edgeserve.model.product import Product, empty_parameter


class RmsNorm(nn.Module):
    """Divided by the root of the mean square (in fp32, whatever the dtype), times a weight."""

    def __init__(
        self, size: int, eps: float, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__()
        self.weight = empty_parameter(size, dtype=dtype, device=device)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class DecoderBlock(nn.Module):
    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__()
        self.heads = (spec.heads, spec.kv_heads, spec.kv_heads)
        self.head_dim = spec.head_dim
        hidden, where, eps = spec.hidden, (dtype, device), spec.norm_eps
        self.attn_norm = RmsNorm(hidden, eps, *where)
        self.qkv = Product(spec.q_rows + 2 * spec.kv_rows, hidden, spec.qkv_bias, *where)
        self.q_norm = RmsNorm(spec.head_dim, eps, *where) if spec.qk_norm else nn.Identity()
        self.k_norm = RmsNorm(spec.head_dim, eps, *where) if spec.qk_norm else nn.Identity()
        self.attn_out = Product(hidden, spec.q_rows, spec.attn_out_bias, *where)
        self.ffn_norm = RmsNorm(hidden, eps, *where)
        self.gate_up = Product(2 * spec.ffn_hidden, hidden, spec.ffn_bias, *where)
        self.down = Product(hidden, spec.ffn_hidden, spec.ffn_bias, *where)

    def forward(self, x_TD: Tensor, where: Where, keys_PKH: Tensor, values_PKH: Tensor) -> Tensor:
        y_TD = x_TD + self._attention(self.attn_norm(x_TD), where, keys_PKH, values_PKH)
        return y_TD + self._ffn(self.ffn_norm(y_TD))

    def _attention(
        self, x_TD: Tensor, where: Where, keys_PKH: Tensor, values_PKH: Tensor
    ) -> Tensor:
        qkv = self.qkv(x_TD).view(len(x_TD), sum(self.heads), self.head_dim)
        q_TNH, k_TKH, v_TKH = qkv.split(self.heads, dim=1)
        q_TNH = rotate(self.q_norm(q_TNH), where.cos_T1F, where.sin_T1F)
        k_TKH = rotate(self.k_norm(k_TKH), where.cos_T1F, where.sin_T1F)
        write(keys_PKH, k_TKH, where.slots_T)
        write(values_PKH, v_TKH, where.slots_T)
        found_TNH = attend(q_TNH, keys_PKH, values_PKH, where.reads)
        out: Tensor = self.attn_out(found_TNH.reshape(len(x_TD), -1))
        return out

    def _ffn(self, x_TD: Tensor) -> Tensor:
        gate, up = self.gate_up(x_TD).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out
