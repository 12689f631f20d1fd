from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerDescription(_message.Message):
    __slots__ = ("protocol", "package_version", "device", "device_name", "memory_bytes", "reserve_bytes", "memory_bytes_per_s", "dtypes", "epoch", "loaded", "simulation", "box", "held", "identity", "device_uuid")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PACKAGE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESERVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    SIMULATION_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_UUID_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    package_version: str
    device: str
    device_name: str
    memory_bytes: int
    reserve_bytes: int
    memory_bytes_per_s: float
    dtypes: _containers.RepeatedScalarFieldContainer[str]
    epoch: int
    loaded: Loaded
    simulation: str
    box: Box
    held: bool
    identity: str
    device_uuid: str
    def __init__(self, protocol: _Optional[int] = ..., package_version: _Optional[str] = ..., device: _Optional[str] = ..., device_name: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., reserve_bytes: _Optional[int] = ..., memory_bytes_per_s: _Optional[float] = ..., dtypes: _Optional[_Iterable[str]] = ..., epoch: _Optional[int] = ..., loaded: _Optional[_Union[Loaded, _Mapping]] = ..., simulation: _Optional[str] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., held: _Optional[bool] = ..., identity: _Optional[str] = ..., device_uuid: _Optional[str] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("python_version", "torch_version", "driver_version", "memory_free_bytes", "disk_free_bytes", "memory_limit_bytes")
    PYTHON_VERSION_FIELD_NUMBER: _ClassVar[int]
    TORCH_VERSION_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    python_version: str
    torch_version: str
    driver_version: str
    memory_free_bytes: int
    disk_free_bytes: int
    memory_limit_bytes: int
    def __init__(self, python_version: _Optional[str] = ..., torch_version: _Optional[str] = ..., driver_version: _Optional[str] = ..., memory_free_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("layers_start", "layers_end", "embedding", "head")
    LAYERS_START_FIELD_NUMBER: _ClassVar[int]
    LAYERS_END_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    layers_start: int
    layers_end: int
    embedding: bool
    head: bool
    def __init__(self, layers_start: _Optional[int] = ..., layers_end: _Optional[int] = ..., embedding: _Optional[bool] = ..., head: _Optional[bool] = ...) -> None: ...

class LoadRequest(_message.Message):
    __slots__ = ("epoch", "model", "spec_hash", "stage", "dtype", "pages", "frame_tokens_max", "config", "weights_hash")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    FRAME_TOKENS_MAX_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_HASH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    model: str
    spec_hash: str
    stage: Stage
    dtype: str
    pages: int
    frame_tokens_max: int
    config: bytes
    weights_hash: str
    def __init__(self, epoch: _Optional[int] = ..., model: _Optional[str] = ..., spec_hash: _Optional[str] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., dtype: _Optional[str] = ..., pages: _Optional[int] = ..., frame_tokens_max: _Optional[int] = ..., config: _Optional[bytes] = ..., weights_hash: _Optional[str] = ...) -> None: ...

class LoadProgress(_message.Message):
    __slots__ = ("bytes_done", "bytes_total", "loaded")
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    bytes_done: int
    bytes_total: int
    loaded: Loaded
    def __init__(self, bytes_done: _Optional[int] = ..., bytes_total: _Optional[int] = ..., loaded: _Optional[_Union[Loaded, _Mapping]] = ...) -> None: ...

class Loaded(_message.Message):
    __slots__ = ("spec_hash", "slice_hash", "stage", "dtype", "pages", "slice_bytes", "random_weights", "load_s")
    SPEC_HASH_FIELD_NUMBER: _ClassVar[int]
    SLICE_HASH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    SLICE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANDOM_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_S_FIELD_NUMBER: _ClassVar[int]
    spec_hash: str
    slice_hash: str
    stage: Stage
    dtype: str
    pages: int
    slice_bytes: int
    random_weights: bool
    load_s: float
    def __init__(self, spec_hash: _Optional[str] = ..., slice_hash: _Optional[str] = ..., stage: _Optional[_Union[Stage, _Mapping]] = ..., dtype: _Optional[str] = ..., pages: _Optional[int] = ..., slice_bytes: _Optional[int] = ..., random_weights: _Optional[bool] = ..., load_s: _Optional[float] = ...) -> None: ...

class EchoRequest(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class EchoReply(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "top_logprobs")
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    presence_penalty: float
    frequency_penalty: float
    logit_bias: _containers.RepeatedCompositeFieldContainer[LogitBias]
    top_logprobs: int
    def __init__(self, temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., logit_bias: _Optional[_Iterable[_Union[LogitBias, _Mapping]]] = ..., top_logprobs: _Optional[int] = ...) -> None: ...

class LogitBias(_message.Message):
    __slots__ = ("token", "bias")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    token: int
    bias: float
    def __init__(self, token: _Optional[int] = ..., bias: _Optional[float] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("sequence", "pages", "sampling", "history")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    pages: _containers.RepeatedScalarFieldContainer[int]
    sampling: Sampling
    history: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequence: _Optional[int] = ..., pages: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ..., history: _Optional[_Iterable[int]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("sequence", "first_position", "tokens", "samples")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    first_position: int
    tokens: int
    samples: int
    def __init__(self, sequence: _Optional[int] = ..., first_position: _Optional[int] = ..., tokens: _Optional[int] = ..., samples: _Optional[int] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("sequence", "allowed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    allowed: bytes
    def __init__(self, sequence: _Optional[int] = ..., allowed: _Optional[bytes] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("sequence", "first_position", "tokens", "top_logprobs")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FIRST_POSITION_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    first_position: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: int
    def __init__(self, sequence: _Optional[int] = ..., first_position: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("frame", "close", "open", "segments", "masks", "scores", "payload")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    frame: int
    close: _containers.RepeatedScalarFieldContainer[int]
    open: _containers.RepeatedCompositeFieldContainer[Open]
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    masks: _containers.RepeatedCompositeFieldContainer[Mask]
    scores: _containers.RepeatedCompositeFieldContainer[Score]
    payload: bytes
    def __init__(self, frame: _Optional[int] = ..., close: _Optional[_Iterable[int]] = ..., open: _Optional[_Iterable[_Union[Open, _Mapping]]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., masks: _Optional[_Iterable[_Union[Mask, _Mapping]]] = ..., scores: _Optional[_Iterable[_Union[Score, _Mapping]]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Sampled(_message.Message):
    __slots__ = ("sequence", "token", "logprob", "top")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    token: int
    logprob: float
    top: _containers.RepeatedCompositeFieldContainer[TopToken]
    def __init__(self, sequence: _Optional[int] = ..., token: _Optional[int] = ..., logprob: _Optional[float] = ..., top: _Optional[_Iterable[_Union[TopToken, _Mapping]]] = ...) -> None: ...

class Scored(_message.Message):
    __slots__ = ("sequence", "token", "logprob", "rank", "top")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    token: int
    logprob: float
    rank: int
    top: _containers.RepeatedCompositeFieldContainer[TopToken]
    def __init__(self, sequence: _Optional[int] = ..., token: _Optional[int] = ..., logprob: _Optional[float] = ..., rank: _Optional[int] = ..., top: _Optional[_Iterable[_Union[TopToken, _Mapping]]] = ...) -> None: ...

class TopToken(_message.Message):
    __slots__ = ("token", "logprob")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    token: int
    logprob: float
    def __init__(self, token: _Optional[int] = ..., logprob: _Optional[float] = ...) -> None: ...

class StageTime(_message.Message):
    __slots__ = ("queue_s", "decode_s", "copy_in_s", "compute_s", "copy_out_s", "encode_s")
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    COPY_IN_S_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_S_FIELD_NUMBER: _ClassVar[int]
    COPY_OUT_S_FIELD_NUMBER: _ClassVar[int]
    ENCODE_S_FIELD_NUMBER: _ClassVar[int]
    queue_s: float
    decode_s: float
    copy_in_s: float
    compute_s: float
    copy_out_s: float
    encode_s: float
    def __init__(self, queue_s: _Optional[float] = ..., decode_s: _Optional[float] = ..., copy_in_s: _Optional[float] = ..., compute_s: _Optional[float] = ..., copy_out_s: _Optional[float] = ..., encode_s: _Optional[float] = ...) -> None: ...

class FrameResult(_message.Message):
    __slots__ = ("frame", "time", "sampled", "failure", "scored", "payload")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    SCORED_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    frame: int
    time: StageTime
    sampled: _containers.RepeatedCompositeFieldContainer[Sampled]
    failure: Failure
    scored: _containers.RepeatedCompositeFieldContainer[Scored]
    payload: bytes
    def __init__(self, frame: _Optional[int] = ..., time: _Optional[_Union[StageTime, _Mapping]] = ..., sampled: _Optional[_Iterable[_Union[Sampled, _Mapping]]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., scored: _Optional[_Iterable[_Union[Scored, _Mapping]]] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("error_type", "message")
    ERROR_TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    error_type: str
    message: str
    def __init__(self, error_type: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("order", "tensors")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    order: LoadRequest
    tensors: _containers.RepeatedCompositeFieldContainer[ManifestTensor]
    def __init__(self, order: _Optional[_Union[LoadRequest, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[ManifestTensor, _Mapping]]] = ...) -> None: ...

class ManifestTensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class SupplyPart(_message.Message):
    __slots__ = ("manifest", "tensor", "offset", "payload")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    manifest: Manifest
    tensor: int
    offset: int
    payload: bytes
    def __init__(self, manifest: _Optional[_Union[Manifest, _Mapping]] = ..., tensor: _Optional[int] = ..., offset: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class SupplyReply(_message.Message):
    __slots__ = ("checked_bytes", "wanted", "supplied")
    CHECKED_BYTES_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    SUPPLIED_FIELD_NUMBER: _ClassVar[int]
    checked_bytes: int
    wanted: _containers.RepeatedCompositeFieldContainer[WantedTensor]
    supplied: Supplied
    def __init__(self, checked_bytes: _Optional[int] = ..., wanted: _Optional[_Iterable[_Union[WantedTensor, _Mapping]]] = ..., supplied: _Optional[_Union[Supplied, _Mapping]] = ...) -> None: ...

class WantedTensor(_message.Message):
    __slots__ = ("tensor", "offset")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    tensor: int
    offset: int
    def __init__(self, tensor: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Supplied(_message.Message):
    __slots__ = ("held_bytes", "local_bytes", "cached_bytes", "streamed_bytes")
    HELD_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CACHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STREAMED_BYTES_FIELD_NUMBER: _ClassVar[int]
    held_bytes: int
    local_bytes: int
    cached_bytes: int
    streamed_bytes: int
    def __init__(self, held_bytes: _Optional[int] = ..., local_bytes: _Optional[int] = ..., cached_bytes: _Optional[int] = ..., streamed_bytes: _Optional[int] = ...) -> None: ...
