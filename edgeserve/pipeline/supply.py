"""The gateway's side of supplying workers: what its model is made of, and the tensors they lack.

Files are hashed and read on threads, beside the pipeline's loop. It keeps no more of them in memory
than one part for each worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from edgeserve.cache.hashes import FileHashes
from edgeserve.errors import BadModel, StageUnavailable
from edgeserve.families.checkpoint import StoredTensor, has_weights
from edgeserve.families.folder import ModelSource, config_to_tell
from edgeserve.families.manifest import ManifestTensor, weights_hash
from edgeserve.families.stage_files import FoundTensor, find_tensors
from edgeserve.pipeline.connection import Connection, Stream
from edgeserve.wire.messages import LoadOrder, LoadProgress
from edgeserve.wire.supply import (
    PAYLOAD_BYTES_MAX,
    Manifest,
    Supplied,
    SupplyPart,
    SupplyReply,
    decode_reply,
    encode_manifest,
    encode_part,
)

SILENCE_S = 300.0
"""Without a word from a worker that is supplied. It says something after each tensor that it
hashed, and the largest has a few GB.
"""
Result = TypeVar("Result")
OnProgress = Callable[[LoadProgress], None]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What came of supplying a worker."""

    supplied: Supplied
    """As the worker counted."""
    sent_bytes: int
    """As the gateway did."""


class Supplier:
    """Has the tensors of one model. `cache` keeps their hashes.

    What the model is, it reads once: stages that come back later are told the same, whatever became
    of the folder meanwhile.
    """

    def __init__(self, source: ModelSource, cache: Path) -> None:
        self._source = source
        self._cache = cache
        folder = source.folder
        self._config = b"" if folder is None else config_to_tell(source)
        self.can_supply = (
            folder is not None and source.reference == str(folder.resolve()) and has_weights(folder)
        )
        """A folder with weights; not what every box has, nor what each finds by a name."""

    def told(self, order: LoadOrder) -> LoadOrder:
        """With what a box without the folder has to know."""
        return replace(order, config=self._config)

    async def supply(
        self, client: Connection, order: LoadOrder, on_progress: OnProgress
    ) -> tuple[LoadOrder, Delivery]:
        """Until the worker has all tensors of its stage. The order names them now."""
        assert self._source.folder is not None
        found = await asyncio.to_thread(
            find_tensors, self._source.folder, self._source.spec, order.stage
        )
        tensors = await _hashed(found, FileHashes(self._cache), on_progress)
        order = replace(order, weights_hash=weights_hash(tensors))
        manifest = Manifest(order=order, tensors=tensors)
        return order, await _deliver(client, manifest, found, on_progress)


async def _hashed(
    found: Sequence[FoundTensor], hashes: FileHashes, on_progress: OnProgress
) -> tuple[ManifestTensor, ...]:
    """One after the other: a gateway that ends waits for its threads, so for no more than one."""
    total_bytes, done_bytes = sum(each.stored.bytes for each in found), 0
    tensors = []
    for each in found:
        stored = each.stored
        with _our_errors(stored):
            sha256 = await asyncio.to_thread(hashes.sha256, stored)
        tensors.append(
            ManifestTensor(name=stored.name, dtype=stored.dtype, shape=stored.shape, sha256=sha256)
        )
        done_bytes += stored.bytes
        on_progress(LoadProgress(bytes_done=done_bytes, bytes_total=total_bytes, doing="hashing"))
    return tuple(tensors)


async def _deliver(
    client: Connection,
    manifest: Manifest,
    found: Sequence[FoundTensor],
    on_progress: OnProgress,
) -> Delivery:
    stream = client.supply()
    sending = _Sending(client, stream, manifest, found, on_progress)
    try:
        await stream.send(encode_manifest(manifest))
        while (reply := await sending.reply()).supplied is None:
            await sending.send(reply)
    finally:
        stream.cancel()
    return Delivery(supplied=reply.supplied, sent_bytes=sending.sent_bytes)


class _Sending:
    """All that one reply wants, before the next one is looked at."""

    def __init__(
        self,
        client: Connection,
        stream: Stream,
        manifest: Manifest,
        found: Sequence[FoundTensor],
        on_progress: OnProgress,
    ) -> None:
        self.sent_bytes = 0
        self._client, self._stream, self._manifest = client, stream, manifest
        self._found, self._on_progress = found, on_progress
        self._total_bytes = sum(each.bytes for each in manifest.tensors)

    async def reply(self) -> SupplyReply:
        return decode_reply(await self._in_time(self._stream.receive()))

    async def send(self, reply: SupplyReply) -> None:
        self._tell("comparing files", reply.checked_bytes)
        tensors = self._manifest.tensors
        to_come = sum(tensors[each.tensor].bytes - each.offset for each in reply.wanted)
        there_bytes = self._total_bytes - to_come - self.sent_bytes
        for wanted in reply.wanted:
            stored, offset = self._found[wanted.tensor].stored, wanted.offset
            while offset < stored.bytes:
                payload = await asyncio.to_thread(_payload, stored, offset)
                part = SupplyPart(tensor=wanted.tensor, offset=offset, payload=payload)
                await self._in_time(self._stream.send(encode_part(part)))
                offset += len(payload)
                self.sent_bytes += len(payload)
                self._tell("streaming", there_bytes + self.sent_bytes)

    def _tell(self, doing: str, done_bytes: int) -> None:
        step = LoadProgress(bytes_done=done_bytes, bytes_total=self._total_bytes, doing=doing)
        self._on_progress(step)

    async def _in_time(self, operation: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(SILENCE_S):
                return await operation
        except TimeoutError:
            worker, stage = str(self._client.address), self._manifest.order.stage
            raise StageUnavailable(
                f"worker {worker} has said nothing for {SILENCE_S:.0f} s while it was supplied "
                f"with {stage}",
                worker=worker,
            ) from None


def _payload(stored: StoredTensor, offset: int) -> bytes:
    """What a part holds from there on. The file is opened for each, which is little beside reading
    2 MiB: so nothing stays open when nobody waits for it any more.
    """
    with _our_errors(stored), stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start_byte + offset)
        payload = file.read(min(PAYLOAD_BYTES_MAX, stored.bytes - offset))
    if not payload:
        raise BadModel(
            f"{stored.path} ends in the midst of tensor {stored.name}: it has changed since it was "
            "looked at; start the gateway again"
        )
    return payload


@contextmanager
def _our_errors(stored: StoredTensor) -> Iterator[None]:
    """A disk that fails or is gone keeps a stage away, and no longer than it is so."""
    try:
        yield
    except OSError as error:
        raise BadModel(
            f"{error.filename or stored.path} cannot be read: {error.strerror}; the workers get "
            "their weights from there"
        ) from None
