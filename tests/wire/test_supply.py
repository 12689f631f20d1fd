"""What is said while a worker is supplied: there and back, and what is none of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import Unauthorized, WireError
from edgeserve.families.manifest import ManifestTensor
from edgeserve.wire.client import MessageStream
from edgeserve.wire.pb import worker_pb2 as pb
from edgeserve.wire.supply import (
    CONFIG_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    Manifest,
    Supplied,
    SupplyPart,
    SupplyReply,
    WantedTensor,
    decode_manifest,
    decode_part,
    decode_reply,
    encode_manifest,
    encode_part,
    encode_reply,
)
from tests.wire.fake_worker import ORDER, FakeHandler, serving

BYTES, PLACES = st.integers(0, 2**63), st.integers(0, 2**32 - 1)
TENSORS = st.builds(
    ManifestTensor,
    name=st.text(max_size=9),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    shape=st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
    sha256=st.binary(min_size=32, max_size=32).map(bytes.hex),
)
MANIFESTS = st.builds(
    Manifest,
    order=st.builds(
        lambda config, told: replace(ORDER, config=config, weights_hash=told),
        st.binary(max_size=9),
        st.text(max_size=9),
    ),
    tensors=st.lists(TENSORS, max_size=4).map(tuple),
)
PARTS = st.builds(SupplyPart, tensor=PLACES, offset=BYTES, payload=st.binary(max_size=99))
REPLIES = st.builds(
    SupplyReply,
    checked_bytes=BYTES,
    wanted=st.lists(st.builds(WantedTensor, tensor=PLACES, offset=BYTES), max_size=3).map(tuple),
    supplied=st.none()
    | st.builds(
        Supplied,
        held_bytes=BYTES,
        local_bytes=BYTES,
        cached_bytes=BYTES,
        streamed_bytes=BYTES,
    ),
)
TENSOR = ManifestTensor(name="t", dtype="F32", shape=(3, 500), sha256="ab" * 32)


@settings(max_examples=60, deadline=None)
@given(manifest=MANIFESTS, part=PARTS, reply=REPLIES)
def test_nothing_is_lost_or_changed_on_the_way(
    manifest: Manifest, part: SupplyPart, reply: SupplyReply
) -> None:
    assert decode_manifest(encode_manifest(manifest)) == manifest
    assert decode_part(encode_part(part)) == part
    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x05ab"])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    for decode in (decode_manifest, decode_part, decode_reply):
        with pytest.raises(WireError, match="no message of Supply"):
            decode(raw)


def test_a_stream_begins_with_its_manifest() -> None:
    for raw in (b"", encode_part(SupplyPart(tensor=0, offset=0, payload=b"x"))):
        with pytest.raises(WireError, match="begins with the manifest"):
            decode_manifest(raw)


@pytest.mark.parametrize("sha256", [b"", b"x" * 31, b"../../../../../../etc/passwd" + b"x" * 5])
def test_a_hash_has_32_bytes(sha256: bytes) -> None:
    tensor = pb.ManifestTensor(name="t", sha256=sha256)
    raw = pb.SupplyPart(manifest=pb.Manifest(tensors=[tensor])).SerializeToString()

    with pytest.raises(WireError, match="SHA-256 has 32 bytes"):
        decode_manifest(raw)


def test_a_configuration_of_megabytes_is_none() -> None:
    order = replace(ORDER, config=bytes(CONFIG_BYTES_MAX + 1))
    with pytest.raises(WireError, match=r"config\.json of 1048577 bytes"):
        decode_manifest(encode_manifest(Manifest(order=order, tensors=())))


@pytest.mark.parametrize(
    ("supplied", "source"),
    [
        (Supplied(held_bytes=1), "memory"),
        (Supplied(local_bytes=1), "local"),
        (Supplied(local_bytes=1, cached_bytes=1), "cache"),
        (Supplied(local_bytes=1, cached_bytes=1, streamed_bytes=1), "stream"),
    ],
)
def test_a_slice_is_from_where_the_slowest_of_it_came(supplied: Supplied, source: str) -> None:
    assert supplied.source == source


# -- over gRPC


async def _send(stream: MessageStream, raw: bytes) -> SupplyReply:
    await stream.send(raw)
    return decode_reply(await stream.receive())


async def test_what_is_wanted_is_sent_and_counted() -> None:
    handler = FakeHandler()
    async with serving(handler, token="secret") as client:
        manifest = Manifest(order=ORDER, tensors=(TENSOR,))
        stream = client.supply()
        reply = await _send(stream, encode_manifest(manifest))
        assert reply.wanted == (WantedTensor(tensor=0, offset=3000),)
        part = SupplyPart(tensor=0, offset=3000, payload=bytes(1000))
        await stream.send(encode_part(part))
        reply = await _send(stream, encode_part(replace(part, offset=4000, payload=bytes(2000))))
        assert reply.supplied == Supplied(streamed_bytes=3000)
        assert handler.manifests == [manifest]


async def test_supply_wants_the_token() -> None:
    async with serving(FakeHandler(), token="secret", said="guess") as client:
        with pytest.raises(Unauthorized, match="token is missing or wrong"):
            await _send(client.supply(), encode_manifest(Manifest(order=ORDER, tensors=())))


async def test_what_is_no_manifest_is_refused_with_the_workers_name() -> None:
    async with serving(FakeHandler()) as client:
        with pytest.raises(WireError, match=f"worker {client.address}: Supply begins"):
            await _send(client.supply(), b"")


class _Idle(FakeHandler):
    """Wants everything, and takes nothing."""

    async def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        yield SupplyReply(wanted=(WantedTensor(tensor=0, offset=0),))
        await asyncio.Event().wait()


async def test_a_worker_that_takes_nothing_is_sent_no_more_than_a_window() -> None:
    """Neither side keeps a slice in memory because the other one is slow."""
    part = encode_part(SupplyPart(tensor=0, offset=0, payload=bytes(PAYLOAD_BYTES_MAX)))
    sent = 0

    async def send_all(stream: MessageStream) -> None:
        nonlocal sent
        while sent < 100:
            await stream.send(part)
            sent += 1

    async with serving(_Idle()) as client:
        stream = client.supply()
        await _send(stream, encode_manifest(Manifest(order=ORDER, tensors=(TENSOR,))))
        with suppress(TimeoutError):
            await asyncio.wait_for(send_all(stream), timeout=0.2)
        stream.cancel()

    assert 0 < sent < 16, f"{sent} parts went into buffers"
