"""A gateway's model and its side of Supply, without a wire."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeserve.families.folder import ModelSource, open_model
from edgeserve.families.manifest import ManifestTensor, weights_hash
from edgeserve.families.spec import Dtype
from edgeserve.families.stage_files import find_tensors
from edgeserve.frames.stage import Stage, cut
from edgeserve.wire.messages import LoadOrder
from edgeserve.wire.supply import Manifest, Supplied, SupplyPart, SupplyReply
from edgeserve.worker.supply import Supply

STAGE = cut((2, 2))[0]


@dataclass
class GatewayBox:
    """Sends what is wanted, in parts of `part_bytes`, and counts."""

    folder: Path
    stage: Stage = STAGE
    part_bytes: int = 1000
    sent: list[SupplyPart] = field(default_factory=list)
    flips: dict[str, int] = field(default_factory=dict)
    """By tensor, in how many sendings of it a bit is flipped."""
    cut_after: int | None = None
    """Parts, after which the stream ends."""

    @property
    def source(self) -> ModelSource:
        return open_model(str(self.folder))

    def content(self) -> dict[str, bytes]:
        return {
            each.stored.name: each.stored.path.read_bytes()[
                each.stored.start_byte : each.stored.end_byte
            ]
            for each in find_tensors(self.folder, self.source.spec, self.stage)
        }

    def manifest(self, **changes: Any) -> Manifest:
        content = self.content()
        tensors = tuple(
            ManifestTensor(
                name=each.stored.name,
                dtype=each.stored.dtype,
                shape=each.stored.shape,
                sha256=hashlib.sha256(content[each.stored.name]).hexdigest(),
            )
            for each in find_tensors(self.folder, self.source.spec, self.stage)
        )
        order = LoadOrder(
            epoch=1, model=str(self.folder), spec_hash=self.source.spec.spec_hash,
            stage=self.stage, dtype=Dtype.FP32, pages=4, frame_tokens_max=32,
            config=(self.folder / "config.json").read_bytes(), weights_hash=weights_hash(tensors),
        )  # fmt: skip
        return Manifest(order=replace(order, **changes), tensors=tensors)

    @property
    def sent_bytes(self) -> int:
        return sum(len(each.payload) for each in self.sent)

    @property
    def total_bytes(self) -> int:
        return sum(map(len, self.content().values()))

    async def supply(self, supply: Supply) -> tuple[Supplied, Sequence[SupplyReply]]:
        """The whole conversation."""
        content, names = self.content(), [each.name for each in self.manifest().tensors]
        to_send: list[SupplyPart] = []

        async def parts() -> AsyncIterator[SupplyPart]:
            while to_send and len(self.sent) != self.cut_after:
                self.sent.append(to_send.pop(0))
                yield self.sent[-1]

        replies = []
        async for reply in supply.run(parts()):
            replies.append(reply)
            for wanted in reply.wanted:
                name = names[wanted.tensor]
                to_send += self._parts(wanted.tensor, wanted.offset, self._damaged(name, content))
        assert to_send == []
        assert replies[-1].supplied is not None
        return replies[-1].supplied, replies

    def _damaged(self, name: str, content: dict[str, bytes]) -> bytes:
        if not self.flips.get(name):
            return content[name]
        self.flips[name] -= 1
        flipped = bytearray(content[name])
        flipped[len(flipped) // 2] ^= 1
        return bytes(flipped)

    def _parts(self, place: int, offset: int, content: bytes) -> list[SupplyPart]:
        return [
            SupplyPart(tensor=place, offset=start, payload=content[start : start + self.part_bytes])
            for start in range(offset, len(content), self.part_bytes)
        ]
