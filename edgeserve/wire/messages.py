"""All but frames: what a worker says of itself, what it is told to load, and how far it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from edgeserve import __version__
from edgeserve.box import Box
from edgeserve.errors import WireError
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.wire import PROTOCOL
from edgeserve.wire.pb import worker_pb2 as pb


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The slice that a worker holds."""

    spec_hash: str
    slice_hash: str
    stage: Stage
    dtype: Dtype
    pages: int
    slice_bytes: int
    random_weights: bool
    load_s: float


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a worker says of itself."""

    protocol: int = PROTOCOL
    package_version: str = __version__
    device: str
    """'cpu' or 'cuda', or 'paced' for one that only takes its time."""
    device_name: str
    memory_bytes: int
    """For slice, pages and workspace together."""
    reserve_bytes: int
    memory_bytes_per_s: float
    """Measured copy bandwidth; 0 if not measured."""
    dtypes: tuple[Dtype, ...]
    """What it computes in, the preferred first."""
    epoch: int
    loaded: Loaded | None
    simulation: str = ""
    """What has to be said beside every figure that it took part in; empty if it computes."""
    box: Box | None = None
    """None if it did not look."""
    held: bool = False
    """A gateway has its stream of frames open."""
    identity: str = ""
    """Drawn at random when the process starts: the same at two addresses is one worker."""
    device_uuid: str = ""
    """The GPU's own: workers that name the same one share it. Empty without a GPU."""


@dataclass(frozen=True, kw_only=True)
class LoadOrder:
    """Take this stage."""

    epoch: int
    model: str
    spec_hash: str
    stage: Stage
    dtype: Dtype
    pages: int
    frame_tokens_max: int
    config: bytes = b""
    """The model's config.json, for a box without its folder."""
    weights_hash: str = ""
    """Of the manifest that was supplied; empty if the worker finds its files by itself."""


@dataclass(frozen=True, kw_only=True)
class LoadProgress:
    """`loaded` is set in the last one alone."""

    bytes_done: int
    bytes_total: int
    loaded: Loaded | None = None
    doing: str = ""
    """What the gateway calls it; it is not on the wire."""


def description_to_pb(description: Description) -> pb.WorkerDescription:
    return pb.WorkerDescription(
        protocol=description.protocol,
        package_version=description.package_version,
        device=description.device,
        device_name=description.device_name,
        memory_bytes=description.memory_bytes,
        reserve_bytes=description.reserve_bytes,
        memory_bytes_per_s=description.memory_bytes_per_s,
        dtypes=description.dtypes,
        epoch=description.epoch,
        simulation=description.simulation,
        loaded=_loaded_to_pb(description.loaded),
        box=_box_to_pb(description.box),
        held=description.held,
        identity=description.identity,
        device_uuid=description.device_uuid,
    )


def description_from_pb(message: pb.WorkerDescription) -> Description:
    """The protocol is looked at first: of another one, nothing else can be trusted."""
    if message.protocol != PROTOCOL:
        raise WireError(
            f"it speaks protocol {message.protocol} (edgeserve "
            f"{message.package_version or '?'}), this end "
            f"speaks {PROTOCOL} (edgeserve {__version__}); install the same version on every box"
        )
    return Description(
        protocol=message.protocol,
        package_version=message.package_version,
        device=message.device,
        device_name=message.device_name,
        memory_bytes=message.memory_bytes,
        reserve_bytes=message.reserve_bytes,
        memory_bytes_per_s=message.memory_bytes_per_s,
        dtypes=tuple(dtype_from_wire(each) for each in message.dtypes),
        epoch=message.epoch,
        loaded=_loaded_from_pb(message.loaded) if message.HasField("loaded") else None,
        simulation=message.simulation,
        box=_box_from_pb(message.box) if message.HasField("box") else None,
        held=message.held,
        identity=message.identity,
        device_uuid=message.device_uuid,
    )


def order_to_pb(order: LoadOrder) -> pb.LoadRequest:
    return pb.LoadRequest(
        epoch=order.epoch,
        model=order.model,
        spec_hash=order.spec_hash,
        stage=_stage_to_pb(order.stage),
        dtype=order.dtype,
        pages=order.pages,
        frame_tokens_max=order.frame_tokens_max,
        config=order.config,
        weights_hash=order.weights_hash,
    )


def order_from_pb(message: pb.LoadRequest) -> LoadOrder:
    return LoadOrder(
        epoch=message.epoch,
        model=message.model,
        spec_hash=message.spec_hash,
        stage=_stage_from_pb(message.stage),
        dtype=dtype_from_wire(message.dtype),
        pages=message.pages,
        frame_tokens_max=message.frame_tokens_max,
        config=message.config,
        weights_hash=message.weights_hash,
    )


def progress_to_pb(progress: LoadProgress) -> pb.LoadProgress:
    return pb.LoadProgress(
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        loaded=_loaded_to_pb(progress.loaded),
    )


def progress_from_pb(message: pb.LoadProgress) -> LoadProgress:
    return LoadProgress(
        bytes_done=message.bytes_done,
        bytes_total=message.bytes_total,
        loaded=_loaded_from_pb(message.loaded) if message.HasField("loaded") else None,
    )


def dtype_from_wire(name: str) -> Dtype:
    try:
        return Dtype(name)
    except ValueError:
        raise WireError(f"{name!r} is no dtype; known are {', '.join(Dtype)}") from None


def _box_to_pb(box: Box | None) -> pb.Box | None:
    return pb.Box(**asdict(box)) if box else None


def _box_from_pb(message: pb.Box) -> Box:
    return Box(
        python_version=message.python_version,
        torch_version=message.torch_version,
        driver_version=message.driver_version,
        memory_free_bytes=message.memory_free_bytes,
        disk_free_bytes=message.disk_free_bytes,
        memory_limit_bytes=message.memory_limit_bytes,
    )


def _loaded_to_pb(loaded: Loaded | None) -> pb.Loaded | None:
    if loaded is None:
        return None
    return pb.Loaded(
        spec_hash=loaded.spec_hash,
        slice_hash=loaded.slice_hash,
        stage=_stage_to_pb(loaded.stage),
        dtype=loaded.dtype,
        pages=loaded.pages,
        slice_bytes=loaded.slice_bytes,
        random_weights=loaded.random_weights,
        load_s=loaded.load_s,
    )


def _loaded_from_pb(message: pb.Loaded) -> Loaded:
    return Loaded(
        spec_hash=message.spec_hash,
        slice_hash=message.slice_hash,
        stage=_stage_from_pb(message.stage),
        dtype=dtype_from_wire(message.dtype),
        pages=message.pages,
        slice_bytes=message.slice_bytes,
        random_weights=message.random_weights,
        load_s=message.load_s,
    )


def _stage_to_pb(stage: Stage) -> pb.Stage:
    return pb.Stage(
        layers_start=stage.layers.start,
        layers_end=stage.layers.end,
        embedding=stage.embedding,
        head=stage.head,
    )


def _stage_from_pb(message: pb.Stage) -> Stage:
    if message.layers_start > message.layers_end:
        raise WireError(f"[{message.layers_start}, {message.layers_end}) is no range of layers")
    return Stage(
        LayerRange(message.layers_start, message.layers_end),
        embedding=message.embedding,
        head=message.head,
    )
