"""What the hops of one token cost, hot and cold: `python benchmarks/hop_cost.py`.

Three real worker processes and the real pipeline on this machine's loopback, with the demo model.
Hot: every stage computes and answers at once. Paced: every stage takes 25 ms for every frame, as a
12 GB card does for a third of a 13B model; the cores go to sleep meanwhile, and every hop begins
with waking one. The two take turns (A B B A), and medians of all tokens are printed. The figures
are of the pipeline without HTTP.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgeserve.box import look_at_box
from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings, WorkerSettings, address
from edgeserve.families.folder import open_model
from edgeserve.frames.sampling import Sampling
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order
from edgeserve.wire.loop import run_on_loop, told_to_end
from edgeserve.wire.messages import LoadOrder, LoadProgress
from edgeserve.wire.server import WorkerServer
from edgeserve.worker.device import open_device
from edgeserve.worker.handler import WorkerHandler
from edgeserve.worker.stage import ResidentStage

KINDS = ("compute", "transfer", "waiting", "other")
WORKERS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=64, help="generated in each turn")
    parser.add_argument("--pace-ms", type=float, default=25.0)
    parser.add_argument("--worker-pace-ms", type=float, help="be a worker with this pace")
    options = parser.parse_args()
    if options.worker_pace_ms is not None:
        run_on_loop(be_worker(options.worker_pace_ms / 1e3))
        return
    hot, paced = start_workers(0.0), start_workers(options.pace_ms)
    try:
        run_on_loop(compare([hot, paced], options))
    finally:
        for process, _ in hot + paced:
            process.kill()


async def compare(clusters: list[list[tuple[Any, Address]]], options: argparse.Namespace) -> None:
    tokens: list[list[dict[str, float]]] = [[], []]
    engines = [await start_engine([where for _, where in cluster]) for cluster in clusters]
    for engine in engines:
        await generate(engine, 16)  # warms up
    for turn in (0, 1, 1, 0):
        tokens[turn] += await generate(engines[turn], options.tokens)
    print(f"one sequence, {WORKERS} workers on loopback, demo model, medians of decoded tokens, ms")
    print("| stages | token | compute | transfer | waiting | other | transfer + other |")
    print("|---|---|---|---|---|---|---|")
    for name, measured in zip(
        ("hot", f"paced simulation, {options.pace_ms:g} ms"), tokens, strict=True
    ):
        print(row(name, measured))


def row(name: str, tokens: list[dict[str, float]]) -> str:
    median = {
        kind: statistics.median(token[f"{kind}_ms"] for token in tokens)
        for kind in ("total", *KINDS)
    }
    both = statistics.median(token["transfer_ms"] + token["other_ms"] for token in tokens)
    cells = [f"{median[kind]:.2f}" for kind in ("total", *KINDS)]
    return f"| {name} | {' | '.join(cells)} | {both:.2f} |"


async def start_engine(workers: list[Address]) -> PipelineEngine:
    settings = GatewaySettings(workers=tuple(workers), model="demo")
    engine = PipelineEngine(settings, open_model("demo"), MonotonicClock())
    await engine.start()
    return engine


async def generate(engine: PipelineEngine, tokens: int) -> list[dict[str, float]]:
    """The receipt's entry of each decoded token."""
    clock = MonotonicClock()
    order = Order(
        prompt=(1, 5, 6, 7), max_new_tokens=tokens + 1, sampling=Sampling(),
        stop_ids=frozenset(), received_s=clock.now_s(),
    )  # fmt: skip
    generation = await engine.submit(order)
    async for _ in generation:
        pass
    per_token: list[dict[str, float]] = generation.receipt(clock.now_s(), tokens + 1)["per_token"]
    return per_token[1:]


def start_workers(pace_ms: float) -> list[tuple[Any, Address]]:
    started = []
    for _ in range(WORKERS):
        process = subprocess.Popen(
            [sys.executable, __file__, "--worker-pace-ms", str(pace_ms)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        started.append((process, address(process.stdout.readline())))
    return started


async def be_worker(pace_s: float) -> None:
    clock = MonotonicClock()
    settings = WorkerSettings(device="cpu", threads=1, memory=2**30)
    box = look_at_box(Path())
    handler = PacedHandler(open_device(settings, clock), settings, clock, box)
    handler.pace_s = pace_s
    server = WorkerServer(handler, "")
    print(await server.start(Address("127.0.0.1", 0)), flush=True)
    await told_to_end(watch_stdin=False)


class PacedHandler(WorkerHandler):
    """A worker whose slice takes at least `pace_s` for every frame."""

    pace_s = 0.0

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        async for progress in super().load(order):
            if progress.loaded and self.pace_s and isinstance(self._stage, ResidentStage):
                paced: Any = Paced(self._stage.slice_, self.pace_s)
                self._stage = replace(self._stage, slice_=paced)
            yield progress


class Paced(torch.nn.Module):
    def __init__(self, slice_: Any, pace_s: float) -> None:
        super().__init__()
        self.slice_, self.pace_s = slice_, pace_s
        self.logits = slice_.logits

    def forward(self, *frame: Any) -> Any:
        end_s = time.perf_counter() + self.pace_s
        hidden = self.slice_(*frame)
        time.sleep(max(0.0, end_s - time.perf_counter()))
        return hidden


if __name__ == "__main__":
    main()
