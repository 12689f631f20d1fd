"""From a list of addresses to stages that can compute: connect, shake hands, plan, load.

Every step names the worker at fault, what it said and what this side wanted. Nothing is sent to a
stage before all of them hold what the plan says.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeVar

from edgeserve import __version__
from edgeserve.clock import Clock, unix_ns
from edgeserve.config import GatewaySettings
from edgeserve.errors import BadSettings, DamagedWeights, StageUnavailable, WireError
from edgeserve.families.folder import ModelSource
from edgeserve.families.spec import Dtype
from edgeserve.pipeline.connection import Connection, FrameStream
from edgeserve.pipeline.supply import Delivery, Supplier
from edgeserve.plan.amount import amount
from edgeserve.plan.facts import Plan, StagePlan, WorkerFacts
from edgeserve.plan.planner import CHUNK_ALONE, CHUNK_BESIDE, default_pages_max, make_plan
from edgeserve.wire import MESSAGE_BYTES_MAX, MIB
from edgeserve.wire.messages import Description, Loaded, LoadOrder, LoadProgress

log = logging.getLogger(__name__)

DESCRIBE_TIMEOUT_S = 5.0
RETRY_PERIOD_S = 0.3
LOAD_SILENCE_S = 300.0
"""Without a word from a worker that loads. Reading starts at once, so even a cold disk on a busy
box says more.
"""

Result = TypeVar("Result")
CACHED_BYTES = 64 * MIB
"""Half the bytes make a model faster because memory is slow. One that lies in a processor's cache
is not, and CPUs multiply small fp32 matrices with less ado: the demo model 1.5 times as fast.
"""
OnProgress = Callable[[int, LoadProgress], None]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A worker that answered."""

    client: Connection
    description: Description

    @property
    def name(self) -> str:
        return str(self.client.address)


def processors(members: Sequence[Member]) -> int:
    """How many frames can be computed at once: workers on one machine's CPU share it, and so do
    those on one GPU, which would take turns and read all weights once for each micro-batch.
    """
    return len({_processor(each) for each in members})


def _processor(member: Member) -> str:
    if member.description.device == "cpu":
        return member.client.address.host
    return member.description.device_uuid or member.name


def prefill_chunk(settings: GatewaySettings, members: Sequence[Member]) -> int:
    """As set, or what suits the cluster."""
    chosen = CHUNK_ALONE if processors(members) == 1 else CHUNK_BESIDE
    return settings.prefill_chunk or chosen


@dataclass(frozen=True, kw_only=True)
class LoadedStage:
    """A member that holds its stage, with a stream of frames to it."""

    member: Member
    loaded: Loaded
    stream: FrameStream
    delivery: Delivery | None = None
    """None if it found its weights by itself, or has none."""


async def connect(
    clients: Sequence[Connection], timeout_s: float, clock: Clock
) -> tuple[Member, ...]:
    """Waits until every worker answers.

    Raises StageUnavailable naming those that do not in time, WireError at once for one of another
    version and for what is no worker, and BadSettings for two addresses of one worker.
    """
    deadline_s = clock.now_s() + timeout_s
    members = await _together(_describe(client, deadline_s, clock) for client in clients)
    for one, other in same_workers(members):
        raise BadSettings(
            f"--workers: {one.name} and {other.name} are two addresses of one worker, which can "
            "hold one stage only; name it once"
        )
    return members


def same_workers(members: Sequence[Member]) -> list[tuple[Member, Member]]:
    """Pairs of addresses at which the same process answers: a name and its address, two networks of
    a box, IPv4 and IPv6.
    """
    return [
        (one, other)
        for one, other in combinations(members, 2)
        if one.description.identity and one.description.identity == other.description.identity
    ]


def choose_dtype(asked: str, source: ModelSource, members: Sequence[Member]) -> Dtype:
    """`asked` if every worker computes in it; for auto the checkpoint's, else fp32 for a model that
    caches hold, else what all of them like best. What a worker names behind fp32 auto never takes.
    """
    if asked != "auto":
        return _asked_dtype(Dtype(asked), members)
    common = _common(_until_fp32(member.description.dtypes) for member in members)
    stored = source.spec.checkpoint_dtype
    is_small = source.spec.parameters * Dtype.FP32.size_bytes <= CACHED_BYTES
    best = Dtype.FP32 if is_small and Dtype.FP32 in common else common[0]
    return stored if stored in common else best


def _until_fp32(dtypes: Sequence[Dtype]) -> Sequence[Dtype]:
    return dtypes[: dtypes.index(Dtype.FP32) + 1] if Dtype.FP32 in dtypes else dtypes


def _common(each_dtypes: Iterable[Sequence[Dtype]]) -> list[Dtype]:
    """In the order of the first."""
    first, *others = each_dtypes
    return [dtype for dtype in first if all(dtype in other for other in others)]


def _asked_dtype(asked: Dtype, members: Sequence[Member]) -> Dtype:
    for member in members:
        if asked not in member.description.dtypes:
            raise BadSettings(
                f"--dtype {asked}: worker {member.name} ({member.description.device_name}) "
                f"computes in {', '.join(member.description.dtypes)} only"
            )
    return asked


def worker_facts(member: Member) -> WorkerFacts:
    """What the planner goes by."""
    described = member.description
    return WorkerFacts(
        name=member.name,
        memory_bytes=described.memory_bytes,
        reserve_bytes=described.reserve_bytes,
        is_gpu=described.device != "cpu",
        read_bytes_per_s=described.memory_bytes_per_s,
    )


def plan_for(settings: GatewaySettings, source: ModelSource, members: Sequence[Member]) -> Plan:
    """The plan for these workers, in their order."""
    workers = [worker_facts(member) for member in members]
    dtype = choose_dtype(settings.dtype, source, members)
    _check_frame_bytes(prefill_chunk(settings, members), settings.max_running, source, dtype)
    pages_max = default_pages_max(source.spec, settings.max_running)
    return make_plan(
        source.spec, dtype, workers, pages_max=pages_max, layers=settings.layers,
        frame_tokens_max=prefill_chunk(settings, members) + settings.max_running,
    )  # fmt: skip


def check_still_suits(plan: Plan, members: Sequence[Member]) -> None:
    """What answers at the address of a stage that comes back may be another worker than was planned
    with. Raises StageUnavailable for one that cannot hold the stage. Less memory for pages than
    before may do: not all of them need ever be touched.
    """
    for number, (stage, member) in enumerate(zip(plan.stages, members, strict=True)):
        lacks = _what_it_lacks(member.description, plan.dtype, stage)
        if lacks:
            raise StageUnavailable(
                f"what answers at {member.name} now is not what was planned with: it {lacks}; "
                "start that worker as it was, or restart the gateway to plan with this one",
                stage=number, worker=member.name,
            )  # fmt: skip


def _what_it_lacks(described: Description, dtype: Dtype, stage: StagePlan) -> str:
    needed = stage.slice_bytes + max(stage.reserve_bytes, described.reserve_bytes)
    if dtype not in described.dtypes:
        return f"computes in {', '.join(described.dtypes)} and not in {dtype.value}"
    if described.memory_bytes < needed:
        return f"may use {amount(described.memory_bytes)} of memory, of {amount(needed)} needed"
    return ""


def simulation_of(descriptions: Sequence[Description]) -> str | None:
    """What has to be said beside every figure of these stages, and which of them it is about if not
    all; None if all of them compute.
    """
    labels = [each.simulation for each in descriptions]
    stages = [str(i) for i, label in enumerate(labels) if label]
    if not stages:
        return None
    told = " and ".join(dict.fromkeys(filter(None, labels)))
    return told if len(stages) == len(labels) else f"{told} (stage {', '.join(stages)} only)"


def next_epoch(members: Sequence[Member]) -> int:
    """Later than any that a worker has seen, even if this box's calendar is behind."""
    return max(unix_ns(), *(member.description.epoch + 1 for member in members))


def _check_frame_bytes(chunk: int, max_running: int, source: ModelSource, dtype: Dtype) -> None:
    """The largest frame passes through a message."""
    token_bytes = source.spec.hidden_bytes_per_token(dtype)
    tokens = chunk + max_running
    tokens_max = (MESSAGE_BYTES_MAX - MIB) // token_bytes  # the rest is for the frame's head
    if tokens > tokens_max:
        raise BadSettings(
            f"--prefill-chunk {chunk} and --max-running {max_running} "
            f"make frames of {tokens} tokens; of this model at most {tokens_max} fit a message"
        )


async def load(
    plan: Plan,
    members: Sequence[Member],
    order: Callable[[int], LoadOrder],
    supplier: Supplier,
    on_progress: OnProgress,
) -> tuple[LoadedStage, ...]:
    """All workers at once; `order(i)` is what stage i is to hold, and what a worker lacks of it is
    sent. Raises what the first one that fails says.
    """
    assert len(members) == len(plan.stages)
    return await _together(
        _take_stage(member, supplier.told(order(i)), supplier, functools.partial(on_progress, i))
        for i, member in enumerate(members)
    )


async def _together(works: Iterable[Coroutine[Any, Any, Result]]) -> tuple[Result, ...]:
    """The results in order; of several errors the first, and then nothing goes on."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        return tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _describe(client: Connection, deadline_s: float, clock: Clock) -> Member:
    while True:
        timeout_s = min(DESCRIBE_TIMEOUT_S, max(RETRY_PERIOD_S, deadline_s - clock.now_s()))
        try:
            member = Member(client=client, description=await client.describe(timeout_s))
        except StageUnavailable:
            if clock.now_s() >= deadline_s:
                raise
            await asyncio.sleep(RETRY_PERIOD_S)
        else:
            _check_version(member)
            return member


def _check_version(member: Member) -> None:
    theirs = member.description.package_version
    if theirs != __version__:
        raise WireError(
            f"worker {member.name} runs edgeserve {theirs}, this gateway {__version__}; install "
            "the same version "
            "on every box",
            worker=member.name,
        )


async def _take_stage(
    member: Member,
    order: LoadOrder,
    supplier: Supplier,
    on_progress: Callable[[LoadProgress], None],
) -> LoadedStage:
    """A blob that its disk has damaged is thrown away by the worker; then it is sent again."""
    if member.description.simulation or not supplier.can_supply:
        return await _load(member, order, on_progress)
    try:
        return await _supply_and_load(member, order, supplier, on_progress)
    except DamagedWeights as error:
        log.warning("%s", error)
        return await _supply_and_load(member, order, supplier, on_progress)


async def _supply_and_load(
    member: Member,
    order: LoadOrder,
    supplier: Supplier,
    on_progress: Callable[[LoadProgress], None],
) -> LoadedStage:
    order, delivery = await supplier.supply(member.client, order, on_progress)
    doing = f"loading from {delivery.supplied.source}"

    def tell(step: LoadProgress) -> None:
        on_progress(replace(step, doing=doing))

    return replace(await _load(member, order, tell), delivery=delivery)


async def _load(
    member: Member, order: LoadOrder, on_progress: Callable[[LoadProgress], None]
) -> LoadedStage:
    progress = member.client.load(order, timeout_s=24 * 3600.0)
    loaded: Loaded | None = None
    while True:
        try:
            async with asyncio.timeout(LOAD_SILENCE_S):
                step = await anext(progress, None)
        except TimeoutError:
            raise StageUnavailable(
                f"worker {member.name} has said nothing for {LOAD_SILENCE_S:.0f} s while "
                f"loading {order.stage}",
                worker=member.name,
            ) from None
        if step is None:
            break
        loaded = step.loaded or loaded
        on_progress(step)
    stream = member.client.run(order.epoch)
    await stream.wait_until_open()
    return LoadedStage(member=member, loaded=_checked(member, order, loaded), stream=stream)


def _checked(member: Member, order: LoadOrder, loaded: Loaded | None) -> Loaded:
    """What the worker says it holds is what it was told to hold."""
    wanted = (order.spec_hash, order.stage, order.dtype, order.pages)
    held = loaded and (loaded.spec_hash, loaded.stage, loaded.dtype, loaded.pages)
    if loaded is None or held != wanted:
        raise WireError(
            f"worker {member.name} says it holds {held}, but was told to load {wanted}; restart it",
            worker=member.name,
        )
    return loaded
