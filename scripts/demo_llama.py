"""The demo model in plain torch: a Llama, for `train_demo.py` to train.

Attributes carry Hugging Face's names, so that state_dict() is the checkpoint. It shares no code
with the package: the demo folder is also a test of the package's own Llama, and a test must not be
its own judge.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# About 3 million numbers: 5.9 MB in fp16. Grouped heads (3 queries share a key) because that is
# what the models that people serve have; six layers, so that a pipeline of up to six stages works.
VOCAB, HIDDEN, FFN, LAYERS = 1536, 192, 512, 6
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 32
CONTEXT, NORM_EPS, ROPE_THETA = 2048, 1e-5, 10_000.0


class Attention(nn.Module):
    """Causal attention with grouped keys and values, and rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Every token looks at itself and at those before it."""
        rows, length, _ = x.shape
        q, k, v = (
            project(x).view(rows, length, -1, HEAD_DIM).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = (each.repeat_interleave(HEADS // KV_HEADS, dim=1) for each in (k, v))
        scores = rotated(q) @ rotated(k).transpose(-1, -2) / math.sqrt(HEAD_DIM)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        out = scores.masked_fill(later, -math.inf).softmax(-1).to(v.dtype) @ v
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
        return projected


class Mlp(nn.Module):
    """The gated feed-forward part (SwiGLU)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each token by itself."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention, then the feed-forward part; each is added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(HIDDEN, NORM_EPS)
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(HIDDEN, NORM_EPS)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        """The residual stream after this layer."""
        attended: Tensor = x + self.self_attn(self.input_layernorm(x))
        out: Tensor = attended + self.mlp(self.post_attention_layernorm(attended))
        return out


class Trunk(nn.Module):
    """All but the head; a class of its own because its names begin with "model."."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        """The normalised hidden states."""
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        normed: Tensor = self.norm(x)
        return normed


class DemoModel(nn.Module):
    """The whole language model: tokens in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Trunk()
        self.lm_head = nn.Linear(HIDDEN, VOCAB, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                # What writes into the residual stream starts smaller, as it adds up over layers.
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.04 / math.sqrt(2 * LAYERS) if writes else 0.04)

    def forward(self, tokens: Tensor) -> Tensor:
        """One row of logits for each token: what comes after it."""
        logits: Tensor = self.lm_head(self.model(tokens))
        return logits


def rotated(x: Tensor) -> Tensor:
    """Rotary positions, pairing the first half of a head with the second as Hugging Face does."""
    half = HEAD_DIM // 2
    frequencies = ROPE_THETA ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[-2]).outer(frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
