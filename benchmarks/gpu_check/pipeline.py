"""Three worker processes share the card, each held to 11.9 GB with its context, with random weights
in the shape of Llama-2 13B; the real pipeline over loopback, without HTTP.

All sequences go as one micro-batch: the three compute in turns, so that a token takes what three
such cards would need. Prompts come in the chunks that three cards get, drafts are off (a random
model repeats itself, and every guess would be right), and nothing of a prompt is kept.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import torch

from benchmarks.gpu_check.setup import WORKERS, Setup
from benchmarks.gpu_check.timing import copy_bytes_per_s, open_torch_device
from edgeserve.clock import MonotonicClock
from edgeserve.config import GatewaySettings, address
from edgeserve.families.folder import open_model
from edgeserve.families.spec import Dtype, ModelSpec
from edgeserve.frames.sampling import Sampling
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.launch.processes import Child, start_child
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order
from edgeserve.plan.planner import CHUNK_BESIDE
from edgeserve.wire.loop import SWITCH_INTERVAL_S, new_loop

Row = dict[str, Any]

START_TIMEOUT_S = 40
WARM_UP_TOKENS = 8
KINDS = ("total", "compute", "transfer", "waiting", "other")
DRAWN_BATCH = 8


def measure(setup: Setup, argument: str) -> Iterator[Row]:
    dtype = Dtype.FP32 if setup.is_rehearsal else Dtype(argument)
    device = open_torch_device(setup.device)
    yield {"copy_gb_s": round(copy_bytes_per_s(device) / 1e9, 1)}
    used_before = used_bytes(setup)
    children: list[Child] = []
    try:
        for number in range(WORKERS):
            children.append(start_worker(number, setup))
            yield {"worker_pid": children[-1].process.pid}
        workers = [child.wait_until_announced(START_TIMEOUT_S) for child in children]
        yield from run(rows_of(setup, dtype, workers))
        yield {"used_gb_by_all": round((used_bytes(setup) - used_before) / 1e9, 2)}
    finally:
        for child in children:
            child.stop()


def start_worker(number: int, setup: Setup) -> Child:
    arguments = ["worker", "--listen", "127.0.0.1:0", "--device", setup.device]
    arguments += ["--memory", str(setup.memory_bytes)]
    if setup.is_rehearsal:
        arguments += ["--threads", "1"]
    return start_child(f"worker {number}", arguments, "edgeserve worker listening on", {})


def used_bytes(setup: Setup) -> int:
    """On the card, by all processes; this one's share is in every reading."""
    if setup.is_rehearsal:
        return 0
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return total_bytes - free_bytes


def run(rows: AsyncIterator[Row]) -> Iterator[Row]:
    """Each as soon as it is there, on a loop as the gateway has it."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        while (row := runner.run(_next(rows))) is not None:
            yield row


async def _next(rows: AsyncIterator[Row]) -> Row | None:
    return await anext(rows, None)


async def rows_of(setup: Setup, dtype: Dtype, workers: list[str]) -> AsyncIterator[Row]:
    settings = GatewaySettings(
        workers=tuple(address(each) for each in workers), model=setup.model, dtype=dtype,
        micro_batches=1, prefill_chunk=CHUNK_BESIDE, speculate="off", prefix_cache="off",
    )  # fmt: skip
    source = open_model(setup.model)
    engine = PipelineEngine(settings, source, MonotonicClock())
    start_s = time.perf_counter()
    await engine.start()
    load_s = round(time.perf_counter() - start_s, 1)
    stages = [each["layers"] for each in (await engine.cluster())["stages"]]
    read_gb = round(read_bytes(source.spec, dtype) / 1e9, 3)
    yield {"dtype": str(dtype), "load_s": load_s, "stages": stages, "read_gb": read_gb}
    for batch in setup.batches if dtype is not Dtype.INT8 else setup.batches[:2]:
        yield await row_of(engine, setup, batch, Sampling())
    if dtype is Dtype.FP16:
        yield await row_of(engine, setup, DRAWN_BATCH, Sampling(temperature=1.0, seed=1))
    engine.stop()


def read_bytes(spec: ModelSpec, dtype: Dtype) -> int:
    """Weights that one step reads, over all stages."""
    return spec.read_bytes(Stage(LayerRange(0, spec.layers), embedding=True, head=True), dtype)


async def row_of(engine: PipelineEngine, setup: Setup, batch: int, sampling: Sampling) -> Row:
    """Medians of all decoded tokens; `hop_us` is what is not compute, for each of the hops."""
    await run_batch(engine, batch, setup.prompt, WARM_UP_TOKENS, sampling)
    receipts, decode_s = await run_batch(engine, batch, setup.prompt, setup.tokens, sampling)
    tokens = [token for receipt in receipts for token in receipt["per_token"][1:]]
    median = {kind: statistics.median(token[f"{kind}_ms"] for token in tokens) for kind in KINDS}
    return {
        "batch": batch,
        "drawn": sampling.temperature > 0,
        "tok_s": round(batch * (setup.tokens - 1) / max(decode_s, 1e-9), 1),
        **{f"{kind}_ms": round(ms, 3) for kind, ms in median.items()},
        "hop_us": round((median["total"] - median["compute"]) / WORKERS * 1e3),
    }


async def run_batch(
    engine: PipelineEngine, batch: int, prompt: int, tokens: int, sampling: Sampling
) -> tuple[list[dict[str, Any]], float]:
    """The receipts of so many equal requests at once, and how long they decoded together."""
    arrivals: list[list[float]] = []

    async def one(number: int) -> dict[str, Any]:
        order = Order(
            prompt=tuple(3 + (number + i) % 200 for i in range(prompt)), max_new_tokens=tokens,
            sampling=sampling, stop_ids=frozenset(), received_s=MonotonicClock().now_s(),
        )  # fmt: skip
        generation = await engine.submit(order)
        arrivals.append([time.perf_counter() async for _ in generation])
        return generation.receipt(MonotonicClock().now_s(), tokens)

    receipts = await asyncio.gather(*(one(number) for number in range(batch)))
    together_s = min(each[-1] for each in arrivals) - max(each[0] for each in arrivals)
    return receipts, together_s
