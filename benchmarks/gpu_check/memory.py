"""What the last of three stages really takes of its 11.9 GB, beside what was planned; how long its
kernels compile the first time; and what one of its frames costs host and device.

The last stage has the head, and with it the largest graphs.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check.setup import WORKERS, Setup
from benchmarks.gpu_check.timing import open_torch_device, wait_for
from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings, WorkerSettings
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype
from edgeserve.frames.micro_batch import Segment
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.cluster import Member, plan_for
from edgeserve.plan.facts import Plan
from edgeserve.plan.planner import CHUNK_BESIDE
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.frame import Frame, Open
from edgeserve.wire.messages import Description, LoadOrder
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.stage import ResidentStage, load_stage

Row = dict[str, Any]

MAX_RUNNING = 64
FRAME_ROWS = (1, 8, 24, 64)
REPEATS = 20
PAGES_EACH = 2
"""Of 16 tokens: room for `REPEATS`."""


def measure(setup: Setup, argument: str) -> Iterator[Row]:
    dtype = Dtype.FP32 if setup.is_rehearsal else Dtype(argument)
    is_cuda = open_torch_device(setup.device).type == "cuda"
    settings = WorkerSettings(device=setup.device, memory=setup.memory_bytes, threads=1)
    device = open_device(settings, MonotonicClock())
    plan = asyncio.run(planned(setup, device, dtype))
    with tempfile.TemporaryDirectory() as folder:
        compiled = listen_to_triton(folder) if is_cuda else []
        before = moment("opened", is_cuda)
        yield before
        stage = load(setup, device, plan)
        loaded = moment("loaded", is_cuda)
        yield loaded | {"load_s": round(stage.loaded.load_s, 1)}
        yield compile_row(compiled) if is_cuda else {"left_out": "compiling: nothing compiles here"}
    for rows in FRAME_ROWS[: 1 if setup.is_rehearsal else None]:
        yield frame_row(stage, rows)
    longest_frame(stage)
    last = moment("longest frame", is_cuda)
    yield last
    yield summary(stage, before, last) | {"planned_bytes": beside_planned(plan, device)}


async def planned(setup: Setup, device: Device, dtype: Dtype) -> Plan:
    """What a gateway plans for three such workers, none of which is asked for anything."""
    settings = GatewaySettings(
        model=setup.model, dtype=dtype, prefill_chunk=CHUNK_BESIDE, max_running=MAX_RUNNING
    )
    description = Description(
        device=device.kind, device_name=device.name, memory_bytes=device.memory_bytes,
        reserve_bytes=device.reserve_bytes, memory_bytes_per_s=device.memory_bytes_per_s,
        dtypes=device.dtypes, epoch=0, loaded=None,
    )  # fmt: skip
    clients = [WorkerClient(Address("127.0.0.1", 1 + number), "") for number in range(WORKERS)]
    try:
        members = [Member(client=each, description=description) for each in clients]
        return plan_for(settings, open_model(setup.model), members)
    finally:
        for each in clients:
            await each.close()


def load(setup: Setup, device: Device, plan: Plan) -> ResidentStage:
    source = open_model(setup.model)
    pages = 2 * MAX_RUNNING if setup.is_rehearsal else plan.pages
    order = LoadOrder(
        epoch=1, model=setup.model, spec_hash=source.spec.spec_hash, stage=plan.stages[-1].stage,
        dtype=plan.dtype, pages=pages, frame_tokens_max=CHUNK_BESIDE + MAX_RUNNING,
    )  # fmt: skip
    return load_stage(order, setup.model, device, lambda _done, _total: None, MonotonicClock())


# -- memory


def moment(name: str, is_cuda: bool) -> Row:
    """What the allocator has from the device, the most that it ever had, and what is free."""
    if not is_cuda:
        return {"moment": name, "reserved_bytes": 0, "peak_bytes": 0, "free_bytes": 0}
    torch.cuda.synchronize()
    told = torch.cuda.memory_stats()
    return {
        "moment": name,
        "allocated_bytes": told["allocated_bytes.all.current"],
        "reserved_bytes": told["reserved_bytes.all.current"],
        "peak_bytes": told["reserved_bytes.all.peak"],
        "free_bytes": torch.cuda.mem_get_info()[0],
    }


def summary(stage: ResidentStage, before: Row, last: Row) -> Row:
    """`beside_bytes` is what the allocator had at its peak beside weights and pages, and
    `outside_bytes` what the process took in addition since the device was open, of which the
    allocator does not know: graphs, modules and handles. The context itself is in neither.
    """
    slice_bytes = stage.loaded.slice_bytes
    page_bytes = stage.kv_pages.bytes_per_page * stage.kv_pages.pages
    taken_bytes = before["free_bytes"] - last["free_bytes"]
    return {
        "memory_of": str(stage.order.dtype), "slice_bytes": slice_bytes, "page_bytes": page_bytes,
        "kv_tokens": 16 * stage.kv_pages.pages,
        "beside_bytes": last["peak_bytes"] - slice_bytes - page_bytes,
        "outside_bytes": taken_bytes - (last["reserved_bytes"] - before["reserved_bytes"]),
    }  # fmt: skip


def beside_planned(plan: Plan, device: Device) -> int:
    """What the plan keeps of the worker's memory for all but slice and pages, its context too."""
    stage = plan.stages[-1]
    return device.memory_bytes - stage.slice_bytes - stage.free_bytes


# -- compiling


def listen_to_triton(cache_folder: str) -> list[tuple[str, float]]:
    """Kernels and the seconds that each took to compile, as they do. Nothing is taken from an older
    run: the folder is empty.
    """
    os.environ["TRITON_CACHE_DIR"] = cache_folder
    import triton  # only where there is a GPU

    compiled: list[tuple[str, float]] = []

    def listen(*, metadata: dict[str, Any], times: Any, cache_hit: bool, **_rest: Any) -> None:
        if not cache_hit:
            compiled.append((str(metadata["name"]), times.total / 1e6))

    triton.knobs.compilation.listener = listen
    return compiled


def compile_row(compiled: list[tuple[str, float]]) -> Row:
    slowest = sorted(compiled, key=lambda each: -each[1])[:3]
    return {
        "kernels_compiled": len(compiled),
        "compile_s": round(sum(taken_s for _, taken_s in compiled), 1),
        "slowest": [f"{name} {taken_s:.1f} s" for name, taken_s in slowest],
    }


# -- frames


@torch.inference_mode()
def frame_row(stage: ResidentStage, rows: int) -> Row:
    """Medians: the host's time to launch a frame of decodes, and the device's for its parts."""
    clock, table = MonotonicClock(), stage.new_table()
    host_s, laps = list[float](), list[list[float]]()
    for position in range(REPEATS):
        frame = frame_of(stage, rows, position)
        sequences = table.take(frame)
        start_s = clock.now_s()
        launched = stage.launch(frame, sequences, clock)
        host_s.append(clock.now_s() - start_s)
        launched.watch.wait()
        laps.append(launched.watch.laps_s())
    copy_in_s, compute_s, copy_out_s = map(statistics.median, zip(*laps, strict=True))
    parts = {"host": statistics.median(host_s), "copy_in": copy_in_s, "compute": compute_s,
             "copy_out": copy_out_s}  # fmt: skip
    return {"frame_rows": rows} | {f"{name}_us": round(1e6 * s, 1) for name, s in parts.items()}


def frame_of(stage: ResidentStage, rows: int, position: int, tokens: int = 1) -> Frame:
    """The same position of so many sequences, each with pages of its own."""
    pages = max(PAGES_EACH, -(-(position + tokens) // 16))
    numbers = range(1, rows + 1)
    opened = tuple(
        Open(
            sequence=number,
            pages=tuple(range((number - 1) * pages, number * pages)),
            sampling=Sampling(),
        )
        for number in numbers
    )
    segment = partial(Segment, first_position=position, tokens=tokens, samples=1)
    token_bytes = stage.source.spec.hidden_bytes_per_token(stage.order.dtype)
    return Frame(
        frame=position,
        open=opened if position == 0 else (),
        segments=tuple(segment(sequence=number) for number in numbers),
        payload=bytes(rows * tokens * token_bytes),
    )


@torch.inference_mode()
def longest_frame(stage: ResidentStage) -> None:
    """A full chunk of a prompt and as many rows beside it as may run: one sequence of all of them,
    for memory's sake.
    """
    frame = frame_of(stage, 1, 0, tokens=stage.order.frame_tokens_max)
    stage.launch(frame, stage.new_table().take(frame), MonotonicClock()).watch.wait()
    wait_for(stage.device.torch_device)
