"""A manifest's way to files on this box: local ones, the cache, and for the rest the gateway.

Local files count if their SHA-256 is the manifest's. It trusts nothing that it is told: the
manifest has to be what the stage is made of, and each part has to continue the tensor that was
asked for. Only one part is in memory at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from edgeserve.cache.blobs import BlobCache, Part, Pin
from edgeserve.cache.hashes import FileHashes
from edgeserve.errors import BadModel, WireError
from edgeserve.families.checkpoint import StoredTensor
from edgeserve.families.manifest import ManifestTensor, sources_of, weights_hash
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage_files import FoundTensor, find_tensors, in_order
from edgeserve.wire.supply import (
    PAYLOAD_BYTES_MAX,
    Manifest,
    Supplied,
    SupplyPart,
    SupplyReply,
    WantedTensor,
)

log = logging.getLogger(__name__)

TRIES = 2
"""For a tensor that arrives damaged. TCP misses one damaged message in a hundred million or so; two
in a row are no accident.
"""


@dataclass(frozen=True, kw_only=True)
class LocalFolder:
    """Where files may be that need not be sent."""

    path: Path
    named_here: bool
    """By this worker's own --model: then it is an error if they are others."""


class Supply:
    """`run` it, and `found` is where all tensors of the stage lie."""

    def __init__(
        self, manifest: Manifest, spec: ModelSpec, cache: BlobCache, local: LocalFolder | None
    ) -> None:
        """Raises WireError for a manifest that is not what its order says."""
        self.order, self._tensors = manifest.order, manifest.tensors
        self._sources = sources_of(manifest.tensors, spec, manifest.order.stage)
        told = weights_hash(manifest.tensors)
        if told != self.order.weights_hash:
            raise WireError(
                f"the manifest's hash is {told}, its order says {self.order.weights_hash!r:.99}"
            )
        self._spec, self._cache, self._local = spec, cache, local
        self._here: dict[str, FoundTensor] = {}
        self._begun: dict[int, Part] = {}
        self._pin: Pin | None = None
        self._streamed_bytes = 0

    @property
    def found(self) -> list[FoundTensor]:
        cached = [self._in_cache(each) for each in self._not_local()]
        return in_order([*self._here.values(), *cached])

    def release(self) -> None:
        """The cache may forget what was found in it, and others go on with what was begun."""
        while self._begun:
            self._begun.popitem()[1].close()
        if self._pin is not None:
            self._pin.release()
            self._pin = None

    async def run(self, parts: AsyncIterator[SupplyPart]) -> AsyncGenerator[SupplyReply]:
        """Raises DoesNotFit before anything is asked for, BadModel for files of another model that
        were named here, WireError for tensors that arrive damaged again and again.
        """
        async for checked_bytes in self._find_local():
            yield SupplyReply(checked_bytes=checked_bytes)
        lacking = await asyncio.to_thread(self._find_cached)
        with ExitStack() as given_up:
            given_up.callback(self.release)
            async for wanted in self._bring(lacking, parts):
                yield SupplyReply(wanted=wanted)
            given_up.pop_all()
        lacking_bytes = sum(self._tensors[place].bytes for place in lacking)
        yield SupplyReply(
            supplied=Supplied(
                local_bytes=sum(each.stored.bytes for each in self._here.values()),
                cached_bytes=sum(each.bytes for each in self._not_local()) - lacking_bytes,
                streamed_bytes=self._streamed_bytes,
            )
        )

    # -- local files

    async def _find_local(self) -> AsyncIterator[int]:
        """Bytes that were hashed, so far."""
        if self._local is None:
            return
        told = {each.name: each for each in self._tensors}
        hashes, checked_bytes, others = FileHashes(self._cache.folder), 0, list[str]()
        for each in self._local_tensors(self._local):
            sha256 = await asyncio.to_thread(hashes.sha256, each.stored)
            checked_bytes += each.stored.bytes
            yield checked_bytes
            if sha256 == told[each.source.name].sha256:
                self._here[each.source.name] = each
            else:
                others.append(_difference(told[each.source.name], sha256))
        if others:
            _differs(self._local, others)

    def _local_tensors(self, local: LocalFolder) -> Sequence[FoundTensor]:
        try:
            return find_tensors(local.path, self._spec, self.order.stage)
        except BadModel as error:
            if local.named_here:
                raise
            log.info("the folder that the gateway names is of no use here: %s", error)
            return ()

    def _not_local(self) -> list[ManifestTensor]:
        return [each for each in self._tensors if each.name not in self._here]

    # -- the cache

    def _find_cached(self) -> list[int]:
        """Takes care that what is there stays. The places of the others, each content once."""
        rest = {each.sha256: each.bytes for each in self._not_local()}
        self._pin = self._cache.reserve(rest)
        lacking = {sha256 for sha256, size in rest.items() if not self._cache.has(sha256, size)}
        places = {each.sha256: place for place, each in enumerate(self._tensors)}
        return sorted(places[sha256] for sha256 in lacking)

    def _in_cache(self, tensor: ManifestTensor) -> FoundTensor:
        stored = StoredTensor(
            name=tensor.name, path=self._cache.path(tensor.sha256), dtype=tensor.dtype,
            shape=tensor.shape, start_byte=0, end_byte=tensor.bytes,
        )  # fmt: skip
        return FoundTensor(source=self._sources[tensor.name], stored=stored, sha256=tensor.sha256)

    # -- the gateway

    async def _bring(
        self, lacking: Sequence[int], parts: AsyncIterator[SupplyPart]
    ) -> AsyncIterator[tuple[WantedTensor, ...]]:
        """What is asked for. What arrives damaged is thrown away and asked for once more."""
        arrived: dict[int, str] = {}
        for _ in range(TRIES):
            if not lacking:
                return
            wanted = await asyncio.to_thread(self._wanted, lacking)
            yield wanted
            for each in wanted:
                arrived[each.tensor] = await self._take(each.tensor, parts)
            lacking = [each for each in lacking if arrived[each] != self._tensors[each].sha256]
        if lacking:
            how = _difference(self._tensors[lacking[0]], arrived[lacking[0]])
            raise WireError(
                f"as it arrived here, {how}, and so {TRIES} times; check memory and network of "
                "this box and of the gateway's, and whether the gateway's files have changed"
            )

    def _wanted(self, lacking: Sequence[int]) -> tuple[WantedTensor, ...]:
        """Of what was begun another time, the rest."""
        for place in lacking:
            tensor = self._tensors[place]
            part = self._cache.begun(tensor.sha256)
            if part is not None and part.bytes > tensor.bytes:
                part.clear()
            if part is not None:
                self._begun[place] = part
        begun_bytes = {place: part.bytes for place, part in self._begun.items()}
        return tuple(WantedTensor(tensor=p, offset=begun_bytes.get(p, 0)) for p in lacking)

    async def _take(self, place: int, parts: AsyncIterator[SupplyPart]) -> str:
        """A tensor to its end. Its SHA-256; if it is the right one, the cache has it."""
        tensor = self._tensors[place]
        part = self._begun.pop(place, None)
        if part is None:
            part = await asyncio.to_thread(self._cache.begin, tensor.sha256)
        with closing(part):
            while part.bytes < tensor.bytes:
                payload = _continuing(await anext(parts, None), place, part.bytes, tensor)
                await asyncio.to_thread(part.append, payload)
                self._streamed_bytes += len(payload)
            return await asyncio.to_thread(part.finish)


def _continuing(part: SupplyPart | None, place: int, offset: int, tensor: ManifestTensor) -> bytes:
    """The payload, if it is what comes next."""
    if part is None:
        raise WireError(
            f"the gateway ended the stream at byte {offset} of {tensor.bytes} of {tensor.name}"
        )
    size = len(part.payload)
    if (part.tensor, part.offset) != (place, offset):
        raise WireError(
            f"byte {offset} of tensor {place} comes next, and byte {part.offset} of tensor "
            f"{part.tensor} came"
        )
    if not 0 < size <= min(PAYLOAD_BYTES_MAX, tensor.bytes - offset):
        raise WireError(
            f"{size} bytes came at byte {offset} of the {tensor.bytes} of {tensor.name}; at most "
            f"{PAYLOAD_BYTES_MAX} can at once"
        )
    return part.payload


def _differs(local: LocalFolder, others: Sequence[str]) -> None:
    how = f"{others[0]} ({len(others)} tensors of the stage differ)"
    if local.named_here:
        raise BadModel(
            f"--model {local.path} is another model than the gateway's: {how}; give both the same "
            "files, or start this worker without --model, and it gets the gateway's"
        )
    log.warning("%s is another model than the gateway's: %s; its are taken", local.path, how)


def _difference(tensor: ManifestTensor, sha256: str) -> str:
    return f"tensor {tensor.name} has SHA-256 {sha256}, the gateway's has {tensor.sha256}"
