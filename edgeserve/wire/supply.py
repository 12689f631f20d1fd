"""What is said while a worker is supplied with tensors: the manifest, bytes, and what is wanted.

As with frames, a part's payload is its last field and passes through no protobuf on its way out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from edgeserve.errors import WireError
from edgeserve.families.manifest import ManifestTensor
from edgeserve.wire import MIB
from edgeserve.wire.codec import with_payload
from edgeserve.wire.messages import LoadOrder, order_from_pb, order_to_pb
from edgeserve.wire.pb import worker_pb2 as pb

PAYLOAD_BYTES_MAX = 2 * MIB
"""Of one part. Smaller ones cost more messages, larger ones only memory."""
CONFIG_BYTES_MAX = MIB
"""Of a config.json; a real one has 1 kB."""

Message = TypeVar("Message", pb.SupplyPart, pb.SupplyReply)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What to load, and what it is made of."""

    order: LoadOrder
    tensors: tuple[ManifestTensor, ...]


@dataclass(frozen=True, kw_only=True)
class SupplyPart:
    """Bytes of a tensor, from `offset` on."""

    tensor: int
    """Its place in the manifest."""
    offset: int
    payload: bytes


@dataclass(frozen=True, kw_only=True)
class WantedTensor:
    """It is to be sent from `offset` on."""

    tensor: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class Supplied:
    """Where the bytes of a slice came from."""

    held_bytes: int = 0
    """In memory already."""
    local_bytes: int = 0
    cached_bytes: int = 0
    streamed_bytes: int = 0

    @property
    def source(self) -> str:
        """The slowest one that had to be asked."""
        if self.streamed_bytes:
            return "stream"
        return "cache" if self.cached_bytes else "local" if self.local_bytes else "memory"


@dataclass(frozen=True, kw_only=True)
class SupplyReply:
    """`supplied` is set in the last one alone."""

    checked_bytes: int = 0
    """Of local files and of the cache, so far."""
    wanted: tuple[WantedTensor, ...] = ()
    supplied: Supplied | None = None


def encode_manifest(manifest: Manifest) -> bytes:
    """The first part."""
    tensors = [
        pb.ManifestTensor(
            name=each.name, dtype=each.dtype, shape=each.shape, sha256=bytes.fromhex(each.sha256)
        )
        for each in manifest.tensors
    ]
    head = pb.Manifest(order=order_to_pb(manifest.order), tensors=tensors)
    return pb.SupplyPart(manifest=head).SerializeToString()


def decode_manifest(raw: bytes) -> Manifest:
    """Raises WireError for anything else."""
    message = _parse(raw, pb.SupplyPart.FromString)
    if not message.HasField("manifest"):
        raise WireError("Supply begins with the manifest; this stream does not")
    manifest = message.manifest
    if len(manifest.order.config) > CONFIG_BYTES_MAX:
        raise WireError(f"a config.json of {len(manifest.order.config)} bytes is none")
    if any(len(each.sha256) != 32 for each in manifest.tensors):
        raise WireError("a SHA-256 has 32 bytes; the manifest has one that does not")
    return Manifest(
        order=order_from_pb(manifest.order),
        tensors=tuple(
            ManifestTensor(
                name=each.name,
                dtype=each.dtype,
                shape=tuple(each.shape),
                sha256=each.sha256.hex(),
            )
            for each in manifest.tensors
        ),
    )


def encode_part(part: SupplyPart) -> bytes:
    head = pb.SupplyPart(tensor=part.tensor, offset=part.offset)
    return with_payload(head.SerializeToString(), part.payload)


def decode_part(raw: bytes) -> SupplyPart:
    message = _parse(raw, pb.SupplyPart.FromString)
    return SupplyPart(tensor=message.tensor, offset=message.offset, payload=message.payload)


def encode_reply(reply: SupplyReply) -> bytes:
    return pb.SupplyReply(
        checked_bytes=reply.checked_bytes,
        wanted=[pb.WantedTensor(tensor=w.tensor, offset=w.offset) for w in reply.wanted],
        supplied=_supplied_to_pb(reply.supplied),
    ).SerializeToString()


def decode_reply(raw: bytes) -> SupplyReply:
    message = _parse(raw, pb.SupplyReply.FromString)
    return SupplyReply(
        checked_bytes=message.checked_bytes,
        wanted=tuple(WantedTensor(tensor=w.tensor, offset=w.offset) for w in message.wanted),
        supplied=_supplied_from_pb(message.supplied) if message.HasField("supplied") else None,
    )


def _supplied_to_pb(supplied: Supplied | None) -> pb.Supplied | None:
    if supplied is None:
        return None
    return pb.Supplied(
        held_bytes=supplied.held_bytes,
        local_bytes=supplied.local_bytes,
        cached_bytes=supplied.cached_bytes,
        streamed_bytes=supplied.streamed_bytes,
    )


def _supplied_from_pb(message: pb.Supplied) -> Supplied:
    return Supplied(
        held_bytes=message.held_bytes,
        local_bytes=message.local_bytes,
        cached_bytes=message.cached_bytes,
        streamed_bytes=message.streamed_bytes,
    )


def _parse(raw: bytes, parse: Callable[[bytes], Message]) -> Message:
    try:
        return parse(raw)
    except DecodeError:
        raise WireError(
            f"{len(raw)} bytes are no message of Supply; the sender speaks another protocol"
        ) from None
