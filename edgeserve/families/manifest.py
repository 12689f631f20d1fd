"""What a slice is, byte for byte: its tensors with their SHA-256, wherever they lie.

It knows no file. Two boxes whose manifests are equal hold the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgeserve.errors import WireError
from edgeserve.families.rules import TensorSource, stage_tensors
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage_files import ITEM_BYTES
from edgeserve.frames.stage import Stage


@dataclass(frozen=True, kw_only=True)
class ManifestTensor:
    """A tensor by its content."""

    name: str
    dtype: str
    """As safetensors spell it: F32, F16, BF16."""
    shape: tuple[int, ...]
    sha256: str
    """64 hex digits, of its bytes as they lie in their file."""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def weights_hash(tensors: Sequence[ManifestTensor]) -> str:
    """Of the whole slice, in whatever order its tensors stand."""
    lines = sorted(json.dumps([t.name, t.dtype, t.shape, t.sha256]) for t in tensors)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sources_of(
    tensors: Sequence[ManifestTensor], spec: ModelSpec, stage: Stage
) -> dict[str, TensorSource]:
    """Where each of them goes, by name. Raises WireError unless they are what the stage is made of:
    every tensor once, each of its shape. So a manifest asks for no more memory or disk than the
    model that was planned for.
    """
    if len(stage.layers) > len(tensors):  # its sources alone might not fit in memory
        raise WireError(f"the manifest has {len(tensors)} tensors for {len(stage.layers)} layers")
    sources = {each.name: each for each in stage_tensors(spec, stage)}
    names = [each.name for each in tensors]
    if sorted(names) != sorted(sources):
        strange = sorted(set(names) ^ sources.keys()) or names
        raise WireError(
            f"the manifest has {len(names)} tensors, {stage} is made of {len(sources)}; the first "
            f"that differs is {strange[0]!r:.200}"
        )
    for each in tensors:
        if each.dtype not in ITEM_BYTES or each.shape != sources[each.name].shape:
            raise WireError(
                f"the manifest has {each.name} as {each.dtype!r:.20} {list(each.shape)!s:.99}; it "
                f"should be {list(sources[each.name].shape)}, as {', '.join(ITEM_BYTES)}"
            )
    return sources
