"""What is not a frame: descriptions, load orders and progress, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve import __version__
from edgeserve.box import Box
from edgeserve.errors import WireError
from edgeserve.families.spec import Dtype
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.wire import PROTOCOL
from edgeserve.wire.messages import (
    Description,
    Loaded,
    LoadOrder,
    LoadProgress,
    description_from_pb,
    description_to_pb,
    order_from_pb,
    order_to_pb,
    progress_from_pb,
    progress_to_pb,
)
from edgeserve.wire.pb import worker_pb2 as pb

BYTES, COUNTS, FLOATS = st.integers(0, 2**63), st.integers(0, 2**32 - 1), st.floats(0, 1e12)
TEXTS, DTYPES = st.text(max_size=9), st.sampled_from(Dtype)
STAGES = st.builds(
    Stage,
    st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda ends: LayerRange(*sorted(ends))),
    embedding=st.booleans(),
    head=st.booleans(),
)
LOADED = st.builds(
    Loaded,
    spec_hash=TEXTS,
    slice_hash=TEXTS,
    stage=STAGES,
    dtype=DTYPES,
    pages=COUNTS,
    slice_bytes=BYTES,
    random_weights=st.booleans(),
    load_s=FLOATS,
)
BOXES = st.builds(
    Box,
    python_version=TEXTS,
    torch_version=TEXTS,
    driver_version=TEXTS,
    memory_free_bytes=BYTES,
    disk_free_bytes=BYTES,
    memory_limit_bytes=BYTES,
)
DESCRIPTIONS = st.builds(
    Description,
    package_version=TEXTS,
    device=TEXTS,
    device_name=TEXTS,
    memory_bytes=BYTES,
    reserve_bytes=BYTES,
    memory_bytes_per_s=FLOATS,
    dtypes=st.lists(DTYPES, max_size=3).map(tuple),
    epoch=BYTES,
    loaded=st.none() | LOADED,
    simulation=TEXTS,
    box=st.none() | BOXES,
    held=st.booleans(),
    identity=TEXTS,
    device_uuid=TEXTS,
)
ORDERS = st.builds(
    LoadOrder,
    epoch=BYTES,
    model=TEXTS,
    spec_hash=TEXTS,
    stage=STAGES,
    dtype=DTYPES,
    pages=COUNTS,
    frame_tokens_max=COUNTS,
)
PROGRESS = st.builds(LoadProgress, bytes_done=BYTES, bytes_total=BYTES, loaded=st.none() | LOADED)


@settings(max_examples=60, deadline=None)
@given(description=DESCRIPTIONS, order=ORDERS, progress=PROGRESS)
def test_nothing_is_lost_or_changed_on_the_way(
    description: Description, order: LoadOrder, progress: LoadProgress
) -> None:
    sent = description_to_pb(description).SerializeToString()
    assert description_from_pb(pb.WorkerDescription.FromString(sent)) == description
    sent = order_to_pb(order).SerializeToString()
    assert order_from_pb(pb.LoadRequest.FromString(sent)) == order
    sent = progress_to_pb(progress).SerializeToString()
    assert progress_from_pb(pb.LoadProgress.FromString(sent)) == progress


def test_another_protocol_is_refused_before_anything_else_is_believed() -> None:
    message = pb.WorkerDescription(protocol=PROTOCOL + 6, package_version="9.1", dtypes=["fp3"])
    with pytest.raises(WireError) as refusal:
        description_from_pb(message)
    said = str(refusal.value)
    assert f"protocol {PROTOCOL + 6} (edgeserve 9.1)" in said
    assert f"speaks {PROTOCOL} (edgeserve {__version__})" in said
    assert "install the same version" in said


def test_a_worker_that_says_nothing_of_itself_is_another_protocol_too() -> None:
    with pytest.raises(WireError, match=r"protocol 0 \(edgeserve \?\)"):
        description_from_pb(pb.WorkerDescription())


def test_an_unknown_dtype_is_named_beside_the_known_ones() -> None:
    with pytest.raises(WireError, match="'fp3' is no dtype; known are fp32, bf16, fp16"):
        order_from_pb(pb.LoadRequest(dtype="fp3"))


def test_layers_that_end_before_they_start_are_refused() -> None:
    stage = pb.Stage(layers_start=7, layers_end=3)
    with pytest.raises(WireError, match=r"\[7, 3\) is no range of layers"):
        order_from_pb(pb.LoadRequest(dtype="fp32", stage=stage))
