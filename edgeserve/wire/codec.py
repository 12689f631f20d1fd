"""Frames and results to bytes and back.

A payload is the last field of its message, and protobuf allows fields to be written one after
another; so a message is its head, made once, and the payload appended. The relay reuses a head for
every stage, and no payload passes through protobuf on its way out. Byte layouts are those of
protos/edgeserve/v1/worker.proto.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.message import DecodeError

from edgeserve.errors import WireError
from edgeserve.frames.micro_batch import MicroBatch, Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage_time import StageTime
from edgeserve.wire.frame import Failure, Frame, FrameResult, Open, Sampled, Score, Scored
from edgeserve.wire.pb import worker_pb2 as pb

_PAYLOAD_TAG = bytes([15 << 3 | 2])  # field 15, length-delimited


def encode_head(micro_batch: MicroBatch, opens: Sequence[Open]) -> bytes:
    """All of a frame but its payload. `opens` are those of `micro_batch`, with what only the
    gateway knows.
    """
    assert tuple(o.sequence for o in opens) == tuple(o.sequence for o in micro_batch.open)
    return pb.Frame(
        frame=micro_batch.frame,
        close=micro_batch.close,
        open=[_open_to_pb(each) for each in opens],
        segments=[
            pb.Segment(
                sequence=each.sequence,
                first_position=each.first_position,
                tokens=each.tokens,
                samples=each.samples,
            )
            for each in micro_batch.segments
        ],
    ).SerializeToString()


def encode_for_last(masks: Mapping[int, bytes], scores: Mapping[int, Score]) -> bytes:
    """What goes behind the head of a frame for the last stage alone, by sequence."""
    if not masks and not scores:
        return b""
    return pb.Frame(
        masks=[pb.Mask(sequence=number, allowed=mask) for number, mask in masks.items()],
        scores=[
            pb.Score(
                sequence=number,
                first_position=each.first_position,
                tokens=each.tokens,
                top_logprobs=each.top_logprobs,
            )
            for number, each in scores.items()
        ],
    ).SerializeToString()


def with_payload(head: bytes, payload: bytes) -> bytes:
    """The whole message."""
    return b"".join((head, _PAYLOAD_TAG, _varint(len(payload)), payload))


def decode_frame(raw: bytes) -> Frame:
    """Raises WireError on bytes that are no frame."""
    message = pb.Frame()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise WireError(
            f"{len(raw)} bytes are not a Frame; the sender speaks another protocol"
        ) from None
    return Frame(
        frame=message.frame,
        close=tuple(message.close),
        open=tuple(_open_from_pb(each) for each in message.open),
        segments=tuple(
            Segment(
                sequence=each.sequence,
                first_position=each.first_position,
                tokens=each.tokens,
                samples=each.samples,
            )
            for each in message.segments
        ),
        payload=message.payload,
        masks={each.sequence: each.allowed for each in message.masks},
        scores={each.sequence: _score_from_pb(each) for each in message.scores},
    )


def encode_result(result: FrameResult) -> bytes:
    message = pb.FrameResult(
        frame=result.frame,
        time=_time_to_pb(result.time),
        sampled=[_sampled_to_pb(each) for each in result.sampled],
        scored=[_scored_to_pb(each) for each in result.scored],
    )
    if result.failure is not None:
        message.failure.error_type = result.failure.error_type
        message.failure.message = result.failure.message
    return with_payload(message.SerializeToString(), result.payload)


def decode_result(raw: bytes) -> FrameResult:
    """Raises WireError on bytes that are no result."""
    message = pb.FrameResult()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise WireError(f"{len(raw)} bytes are not a FrameResult") from None
    failed = message.HasField("failure")
    return FrameResult(
        frame=message.frame,
        time=_time_from_pb(message.time),
        sampled=tuple(_sampled_from_pb(each) for each in message.sampled),
        scored=tuple(_scored_from_pb(each) for each in message.scored),
        payload=message.payload,
        failure=Failure(error_type=message.failure.error_type, message=message.failure.message)
        if failed
        else None,
    )


def _open_to_pb(opened: Open) -> pb.Open:
    return pb.Open(
        sequence=opened.sequence,
        pages=opened.pages,
        sampling=_sampling_to_pb(opened.sampling),
        history=opened.history,
    )


def _open_from_pb(message: pb.Open) -> Open:
    return Open(
        sequence=message.sequence,
        pages=tuple(message.pages),
        sampling=_sampling_from_pb(message.sampling),
        history=tuple(message.history),
    )


def _sampling_to_pb(sampling: Sampling) -> pb.Sampling:
    return pb.Sampling(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=[pb.LogitBias(token=token, bias=bias) for token, bias in sampling.logit_bias],
        top_logprobs=sampling.top_logprobs,
    )


def _sampling_from_pb(message: pb.Sampling) -> Sampling:
    return Sampling(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p,
        min_p=message.min_p,
        repetition_penalty=message.repetition_penalty,
        seed=message.seed,
        presence_penalty=message.presence_penalty,
        frequency_penalty=message.frequency_penalty,
        logit_bias=tuple((each.token, each.bias) for each in message.logit_bias),
        top_logprobs=message.top_logprobs,
    )


def _sampled_to_pb(sampled: Sampled) -> pb.Sampled:
    return pb.Sampled(
        sequence=sampled.sequence,
        token=sampled.token,
        logprob=sampled.logprob,
        top=_top_to_pb(sampled.top),
    )


def _sampled_from_pb(message: pb.Sampled) -> Sampled:
    return Sampled(
        sequence=message.sequence,
        token=message.token,
        logprob=message.logprob,
        top=_top_from_pb(message.top),
    )


def _score_from_pb(message: pb.Score) -> Score:
    return Score(
        first_position=message.first_position,
        tokens=tuple(message.tokens),
        top_logprobs=message.top_logprobs,
    )


def _scored_to_pb(scored: Scored) -> pb.Scored:
    return pb.Scored(
        sequence=scored.sequence,
        token=scored.token,
        logprob=scored.logprob,
        rank=scored.rank,
        top=_top_to_pb(scored.top),
    )


def _scored_from_pb(message: pb.Scored) -> Scored:
    top = _top_from_pb(message.top)
    return Scored(message.sequence, message.token, message.logprob, message.rank, top)


def _top_to_pb(top: Iterable[tuple[int, float]]) -> list[pb.TopToken]:
    return [pb.TopToken(token=token, logprob=logprob) for token, logprob in top]


def _top_from_pb(top: Iterable[pb.TopToken]) -> tuple[tuple[int, float], ...]:
    return tuple((each.token, each.logprob) for each in top)


def _time_to_pb(time: StageTime) -> pb.StageTime:
    return pb.StageTime(
        queue_s=time.queue_s,
        decode_s=time.decode_s,
        copy_in_s=time.copy_in_s,
        compute_s=time.compute_s,
        copy_out_s=time.copy_out_s,
        encode_s=time.encode_s,
    )


def _time_from_pb(message: pb.StageTime) -> StageTime:
    return StageTime(
        queue_s=message.queue_s,
        decode_s=message.decode_s,
        copy_in_s=message.copy_in_s,
        compute_s=message.compute_s,
        copy_out_s=message.copy_out_s,
        encode_s=message.encode_s,
    )


def _varint(value: int) -> bytes:
    """Base 128, least significant first: how protobuf writes a length."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
