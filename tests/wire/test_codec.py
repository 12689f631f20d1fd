"""Frames and results survive the wire, and are protobuf whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import WireError
from edgeserve.frames.micro_batch import MicroBatch, Opening, Segment
from edgeserve.frames.sampling import SEED_MAX, Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.wire.codec import (
    decode_frame,
    decode_result,
    encode_for_last,
    encode_head,
    encode_result,
    with_payload,
)
from edgeserve.wire.frame import Failure, Frame, FrameResult, Open, Sampled, Score, Scored
from edgeserve.wire.pb import worker_pb2 as pb

SEQUENCES = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**32 - 1)
FLOATS = st.floats(allow_nan=False)
PAYLOADS = st.binary(max_size=300)
NUMBERED = st.lists(st.tuples(COUNTS, FLOATS), max_size=3).map(tuple)
"""Token ids, each with a number."""
SAMPLINGS = st.builds(
    Sampling,
    temperature=FLOATS,
    top_k=COUNTS,
    top_p=FLOATS,
    min_p=FLOATS,
    repetition_penalty=FLOATS,
    presence_penalty=FLOATS,
    frequency_penalty=FLOATS,
    logit_bias=NUMBERED,
    seed=st.integers(0, SEED_MAX),
    top_logprobs=COUNTS,
)
OPENS = st.builds(
    Open,
    sequence=SEQUENCES,
    pages=st.lists(COUNTS, max_size=5).map(tuple),
    sampling=SAMPLINGS,
    history=st.lists(COUNTS, max_size=5).map(tuple),
)
SEGMENTS = st.builds(
    Segment, sequence=SEQUENCES, first_position=COUNTS, tokens=COUNTS, samples=COUNTS
)
SCORES = st.builds(
    Score,
    first_position=COUNTS,
    tokens=st.lists(COUNTS, max_size=4).map(tuple),
    top_logprobs=COUNTS,
)
FRAMES = st.builds(
    Frame,
    frame=SEQUENCES,
    close=st.lists(SEQUENCES, max_size=3).map(tuple),
    open=st.lists(OPENS, max_size=2).map(tuple),
    segments=st.lists(SEGMENTS, max_size=3).map(tuple),
    payload=PAYLOADS,
    masks=st.dictionaries(SEQUENCES, st.binary(max_size=9), max_size=3),
    scores=st.dictionaries(SEQUENCES, SCORES, max_size=3),
)
SAMPLED = st.builds(Sampled, sequence=SEQUENCES, token=COUNTS, logprob=FLOATS, top=NUMBERED)
SCORED = st.builds(
    Scored, sequence=SEQUENCES, token=COUNTS, logprob=FLOATS, rank=COUNTS, top=NUMBERED
)
RESULTS = st.builds(
    FrameResult,
    frame=SEQUENCES,
    time=st.builds(
        StageTime,
        queue_s=FLOATS,
        decode_s=FLOATS,
        copy_in_s=FLOATS,
        compute_s=FLOATS,
        copy_out_s=FLOATS,
        encode_s=FLOATS,
    ),
    sampled=st.lists(SAMPLED, max_size=3).map(tuple),
    payload=PAYLOADS,
    scored=st.lists(SCORED, max_size=3).map(tuple),
    failure=st.none() | st.builds(Failure, error_type=st.text(), message=st.text()),
)


def _micro_batch(frame: Frame) -> MicroBatch:
    return MicroBatch(
        frame=frame.frame,
        close=frame.close,
        open=tuple(Opening(sequence=each.sequence, pages=each.pages) for each in frame.open),
        segments=frame.segments,
    )


def _encoded(frame: Frame) -> bytes:
    head = encode_head(_micro_batch(frame), frame.open)
    head += encode_for_last(frame.masks, frame.scores)
    return with_payload(head, frame.payload)


@settings(max_examples=100, deadline=None)
@given(frame=FRAMES)
def test_a_frame_is_the_same_after_the_wire(frame: Frame) -> None:
    assert decode_frame(_encoded(frame)) == frame


@settings(max_examples=100, deadline=None)
@given(result=RESULTS)
def test_a_result_is_the_same_after_the_wire(result: FrameResult) -> None:
    assert decode_result(encode_result(result)) == result


@settings(max_examples=60, deadline=None)
@given(frame=FRAMES, result=RESULTS)
def test_a_message_with_an_appended_payload_is_what_protobuf_itself_would_write(
    frame: Frame, result: FrameResult
) -> None:
    """So that another program may speak this protocol with any protobuf library."""
    whole = pb.Frame.FromString(encode_head(_micro_batch(frame), frame.open))
    whole.payload = frame.payload
    for number, mask in frame.masks.items():
        whole.masks.add(sequence=number, allowed=mask)
    for number, score in frame.scores.items():
        whole.scores.add(
            sequence=number,
            first_position=score.first_position,
            tokens=score.tokens,
            top_logprobs=score.top_logprobs,
        )
    assert pb.Frame.FromString(_encoded(frame)) == whole
    assert decode_frame(whole.SerializeToString()) == frame

    parsed = pb.FrameResult.FromString(encode_result(result))
    assert parsed.payload == result.payload
    assert decode_result(parsed.SerializeToString()) == result


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16_383, 16_384, 2**21 - 1, 2**21])
def test_a_payload_of_any_length_keeps_its_length(size: int) -> None:
    """Each of these is where the length itself takes a byte more, or is one beside it."""
    payload = bytes(size)
    raw = with_payload(b"", payload)
    assert decode_frame(raw).payload == payload
    assert raw == pb.Frame(payload=payload).SerializeToString() or size == 0


def test_one_head_serves_every_stage() -> None:
    segment = Segment(sequence=7, first_position=3, tokens=1, samples=1)
    head = encode_head(MicroBatch(frame=9, close=(5,), open=(), segments=(segment,)), [])
    ids, hidden = decode_frame(with_payload(head, b"id..")), decode_frame(with_payload(head, b"h"))
    assert (ids.payload, hidden.payload) == (b"id..", b"h")
    assert (ids.close, ids.segments) == (hidden.close, hidden.segments) == ((5,), (segment,))


def test_what_is_left_out_keeps_its_default() -> None:
    raw = encode_result(FrameResult(frame=1, time=StageTime()))
    assert decode_result(raw).failure is None
    refused = FrameResult(frame=1, time=StageTime(), failure=Failure(error_type="wire", message=""))
    assert decode_result(encode_result(refused)).failure == refused.failure


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 20,
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x7a\x05abc",  # a payload that ends before its length says so
        b"\x08",  # a number without its value
    ],
)
def test_bytes_that_are_no_message_are_a_wire_error(garbage: bytes) -> None:
    with pytest.raises(WireError, match=f"{len(garbage)} bytes are not a Frame;"):
        decode_frame(garbage)
    with pytest.raises(WireError, match=f"{len(garbage)} bytes are not a FrameResult"):
        decode_result(garbage)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60))
def test_no_bytes_at_all_lead_to_another_error(raw: bytes) -> None:
    for decode in (decode_frame, decode_result):
        try:
            decoded = decode(raw)
        except WireError:
            continue
        assert decoded.payload in raw


@settings(max_examples=60, deadline=None)
@given(frame=FRAMES, data=st.data())
def test_a_truncated_frame_is_refused_or_lacks_what_was_cut(
    frame: Frame, data: st.DataObject
) -> None:
    raw = _encoded(frame)
    cut = data.draw(st.integers(0, len(raw) - 1))
    try:
        decoded = decode_frame(raw[:cut])
    except WireError:
        return
    assert decoded != frame or not frame.payload
    #      an empty payload is the one part that may be missing


def test_the_opens_of_another_micro_batch_are_our_mistake() -> None:
    opening = Opening(sequence=7, pages=(1,))
    other = Open(sequence=8, pages=(1,), sampling=Sampling())
    with pytest.raises(AssertionError):
        encode_head(MicroBatch(frame=1, close=(), open=(opening,), segments=()), [other])


def test_a_frame_counts_its_tokens() -> None:
    segments = tuple(Segment(sequence=i, first_position=0, tokens=i, samples=0) for i in (1, 2, 4))
    assert Frame(frame=1, segments=segments, payload=b"").tokens == 7
