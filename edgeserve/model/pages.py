"""The tensors that hold keys and values. Who owns which page is the scheduler's business.

L layers of the stage, P slots (pages * 16), K key/value heads, H head dim
"""

from __future__ import annotations

import torch

from edgeserve.families.spec import PAGE_TOKENS, ModelSpec


class KvPages:
    """All pages of a stage. A page has the same number on every layer."""

    def __init__(
        self,
        spec: ModelSpec,
        layers: int,
        pages: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        shape_LPKH = (layers, pages * PAGE_TOKENS, spec.kv_heads, spec.head_dim)
        # Zeros, so that a slot that was never written is dull instead of a stranger's or NaN.
        self.keys_LPKH = torch.zeros(shape_LPKH, dtype=dtype, device=device)
        self.values_LPKH = torch.zeros(shape_LPKH, dtype=dtype, device=device)
        self.pages = pages

    @property
    def bytes_per_page(self) -> int:
        """Keys and values of 16 tokens on all layers of the stage."""
        return (self.keys_LPKH.nbytes + self.values_LPKH.nbytes) // max(1, self.pages)
