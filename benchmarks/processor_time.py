"""What a token costs in processor time, on three workers of one thread each: figures that a machine
with other work on it can give, where tokens per second are those of the neighbours.

    python -m benchmarks.processor_time bf16 fp32 int8
    python -m benchmarks.processor_time bf16 int8 --llama-cpp BIN_DIR --gguf F16.gguf Q8_0.gguf

Ours is the time of the workers, with gRPC and sampling; llama.cpp's is that of its RPC servers. The
gateway's and its client's are left out. Each figure is the difference of two runs, so that neither
loading nor the end of a run is in it: of a step of a batch, and of 496 tokens of a prompt. What it
cannot see: whether the memory keeps up with several threads, and whatever waits.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.client import ask_all, open_http
from benchmarks.llama_cpp import LlamaCpp
from benchmarks.measures import PREFILL_TOKENS
from benchmarks.our_cluster import OurCluster, question

WORKERS = 3
PROMPT_TOKENS = 16
FEW_TOKENS, STEPS = 2, 24
BATCHES = (1, 8)
REPEATS = 2

Run = Callable[[int, int, int], float]
"""Seconds for prompts of so many tokens, so many new ones, and so many sequences."""


def main() -> None:
    options = _options()
    print(
        "| | "
        + " | ".join([*(f"step of {batch}, ms" for batch in BATCHES), "496 tokens of a prompt, ms"])
        + " |"
    )
    print("|---|" + "--:|" * (len(BATCHES) + 1))
    for dtype in options.dtypes:
        with _ours(dtype) as run:
            _print_row(f"edgeserve {dtype}", run)
    for gguf in options.gguf:
        with _llama(options.llama_cpp, gguf) as run:
            _print_row(f"llama.cpp {gguf.name}", run)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dtypes", nargs="*", default=["bf16"])
    parser.add_argument("--llama-cpp", type=Path, metavar="BIN_DIR", help="its programs")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="the shape's files for it")
    return parser.parse_args()


def _print_row(name: str, run: Run) -> None:
    run(PREFILL_TOKENS, FEW_TOKENS, 1)  # the first pays for what is made once
    figures = [[_step_ms(run, batch) for _ in range(REPEATS)] for batch in BATCHES]
    figures.append([_prompt_ms(run) for _ in range(REPEATS)])
    print(f"| {name} | " + " | ".join(_spread(each) for each in figures) + " |", flush=True)


def _step_ms(run: Run, batch: int) -> float:
    few_s = run(PROMPT_TOKENS, FEW_TOKENS, batch)
    return 1e3 * (run(PROMPT_TOKENS, FEW_TOKENS + STEPS, batch) - few_s) / STEPS


def _prompt_ms(run: Run) -> float:
    return 1e3 * (run(PREFILL_TOKENS, 1, 1) - run(PROMPT_TOKENS, 1, 1))


def _spread(ms: Sequence[float]) -> str:
    return f"{statistics.mean(ms):.1f} ({min(ms):.1f} to {max(ms):.1f})"


@contextmanager
def _ours(dtype: str) -> Iterator[Run]:
    cluster = OurCluster(workers=WORKERS, dtype=dtype, threads=1)
    asked = iter(range(10**6))  # no prompt twice: its keys and values would be kept

    async def ask(url: str, prompt: int, steps: int, batch: int) -> None:
        seeds = [f"processor time {next(asked)}" for _ in range(batch)]
        async with open_http(url) as http:
            await ask_all(http, [question(prompt, steps, seed) for seed in seeds])

    with cluster.running() as (url, children):
        pids = [child.process.pid for child in children]
        yield _timed(pids, lambda *what: asyncio.run(ask(url, *what)))


@contextmanager
def _llama(binaries: Path, gguf: Path) -> Iterator[Run]:
    peer = LlamaCpp(binaries=binaries, gguf=gguf, threads=1, server_threads=1, flags=())
    with peer.servers() as pids:
        addresses = list(pids)
        yield _timed(
            list(pids.values()),
            lambda prompt, steps, batch: peer.run(addresses, prompt, steps, (batch,)),
        )


def _timed(pids: Sequence[int], do: Callable[[int, int, int], object]) -> Run:
    def run(prompt: int, steps: int, batch: int) -> float:
        start_s = _processor_s(pids)
        do(prompt, steps, batch)
        return _processor_s(pids) - start_s

    return run


def _processor_s(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


if __name__ == "__main__":
    main()
