"""Is the CUDA path right, and how fast is it? `make gpu-check`, under 8 minutes on one card.

1. Correctness: the tests of `tests/gpu` and `tests/kernels`, on the card.
2. Bandwidth: of a copy within the card, and of the matrix products of a decode.
3. Speed: three worker processes share the card, each held to 11.9 GB with its context, with random
   fp16 weights in the shape of Llama-2 13B; the real pipeline over loopback, without HTTP. The
   three compute in turns, so one sequence's time is what three such cards would need.

Ends with one line of JSON, which `--out DIR` also writes to a file. Exit code 1 if anything
failed, or if there is no GPU. `--rehearse` runs the same steps but the first on a CPU, with the
demo model: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from edgeserve.clock import MonotonicClock
from edgeserve.config import GatewaySettings, WorkerSettings, address
from edgeserve.families.folder import open_model
from edgeserve.families.sampling import Sampling
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage import LayerRange, Stage
from edgeserve.launch.processes import Child, start_child
from edgeserve.pipeline.engine import PipelineEngine
from edgeserve.pipeline.generation import Order
from edgeserve.wire.loop import run_on_loop
from edgeserve.worker.device import open_device

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 3
MEMORY_BYTES = 11_900_000_000
TESTS_TIMEOUT_S = 240
TEST_PROCESSES = "6"
START_TIMEOUT_S = 120
WARM_UP_TOKENS = 8
SEVERAL = 4  # copies of a matrix: more than any cache holds
TARGETS: dict[int, dict[str, float]] = {
    1: {"tok_s": 100.0, "copy_share": 0.7},
    8: {"tok_s": 800.0},
}
"""By batch; of an NVIDIA H200, whose memory is 13 times as fast as an RTX 3060's."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    model: str
    device: str
    dtype: str
    memory_bytes: int
    batches: tuple[int, ...]
    prompt: int
    tokens: int


FULL = Setup(
    model="llama-2-13b", device="cuda", dtype="fp16", memory_bytes=MEMORY_BYTES,
    batches=(*range(1, 9), 24), prompt=32, tokens=128,
)  # fmt: skip
REHEARSAL = Setup(
    model="demo", device="cpu", dtype="fp32", memory_bytes=10**9,
    batches=(1, 3), prompt=4, tokens=8,
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with the demo model")
    parser.add_argument("--out", type=Path, help="folder for gpu_check.json")
    parser.add_argument("--skip-tests", action="store_true", help="measure only")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("NO GPU: PyTorch sees no CUDA device here, so nothing was checked.", file=sys.stderr)
        return 1
    setup = REHEARSAL if options.rehearse else FULL
    document: dict[str, Any] = {"rehearsal": options.rehearse, "model": setup.model}
    if not options.rehearse and not options.skip_tests:
        document["tests"] = run_tests()
    document |= describe(setup)
    document |= run_on_cluster(setup)
    document["faults"] = faults(document)
    print_summary(document)
    line = json.dumps(document)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "gpu_check.json").write_text(line + "\n", encoding="utf-8")
    print(line)
    return 1 if document["faults"] else 0


# -- correctness


def run_tests() -> dict[str, Any]:
    start_s = time.perf_counter()
    # Most of their time goes into compiling, so several processes share the card. What they
    # compile for cards that are not here matters elsewhere.
    command = [sys.executable, "-m", "pytest", "-q", "-n", TEST_PROCESSES, "tests/gpu",
               "tests/kernels", "--ignore", "tests/kernels/test_compile.py"]  # fmt: skip
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=TESTS_TIMEOUT_S, check=False).returncode
    except subprocess.TimeoutExpired:
        code = -1
    return {"exit_code": code, "taken_s": round(time.perf_counter() - start_s, 1)}


# -- the card alone


def describe(setup: Setup) -> dict[str, Any]:
    device = open_device(WorkerSettings(device=setup.device), MonotonicClock())
    if setup.device == "cpu":
        return {"device": device.name, "copy_gb_s": 1.0, "products": []}
    return {
        "device": device.name,
        "torch": torch.__version__,
        "copy_gb_s": round(device.memory_bytes_per_s / 1e9, 1),
        "products": [
            measure_product(open_model(setup.model).spec, name, rows)
            for name in ("qkv", "attn_out", "gate_up", "down", "head")
            for rows in (1, 8, 24)
        ],
    }


@torch.inference_mode()
def measure_product(spec: ModelSpec, name: str, rows: int) -> dict[str, Any]:
    """How fast cuBLAS reads a layer's matrix, with so many rows to multiply."""
    shape = {
        "qkv": (spec.q_rows + 2 * spec.kv_rows, spec.hidden),
        "attn_out": (spec.hidden, spec.q_rows),
        "gate_up": (2 * spec.ffn_hidden, spec.hidden),
        "down": (spec.hidden, spec.ffn_hidden),
        "head": (spec.vocab, spec.hidden),
    }[name]
    half: dict[str, Any] = {"dtype": torch.float16, "device": "cuda"}
    matrices = [torch.randn(shape, **half) for _ in range(SEVERAL)]
    x = torch.randn((rows, shape[1]), **half)

    def multiply() -> None:
        for matrix in matrices:
            functional.linear(x, matrix)

    taken_s = min(timed_s(multiply) for _ in range(10))
    read_bytes = sum(matrix.nbytes for matrix in matrices)
    return {"product": name, "rows": rows, "gb_s": round(read_bytes / taken_s / 1e9, 1)}


def timed_s(work: Any) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


# -- three workers and the pipeline


def run_on_cluster(setup: Setup) -> dict[str, Any]:
    result: dict[str, Any] = {}
    used_before = used_bytes(setup)
    children: list[Child] = []
    try:
        children += (start_worker(number, setup) for number in range(WORKERS))
        workers = [child.wait_until_announced(START_TIMEOUT_S) for child in children]
        run_on_loop(measure(setup, workers, result))
        result["used_gb_by_all"] = round((used_bytes(setup) - used_before) / 1e9, 2)
    finally:
        for child in children:
            child.stop()
    return result


def start_worker(number: int, setup: Setup) -> Child:
    arguments = ["worker", "--listen", "127.0.0.1:0", "--device", setup.device]
    arguments += ["--memory", str(setup.memory_bytes)]
    if setup.device == "cpu":
        arguments += ["--threads", "1"]
    path = {"PYTHONPATH": str(ROOT)}
    return start_child(f"worker {number}", arguments, "edgeserve worker listening on", path)


def used_bytes(setup: Setup) -> int:
    """On the card, by all processes; this one's share is in every reading."""
    if setup.device == "cpu":
        return 0
    torch.cuda.empty_cache()
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return total_bytes - free_bytes


async def measure(setup: Setup, workers: list[str], result: dict[str, Any]) -> None:
    settings = GatewaySettings(
        workers=tuple(address(each) for each in workers), model=setup.model, dtype=setup.dtype
    )
    source = open_model(setup.model)
    engine = PipelineEngine(settings, source, MonotonicClock())
    start_s = time.perf_counter()
    await engine.start()
    result["load_s"] = round(time.perf_counter() - start_s, 1)
    result["stages"] = [each["layers"] for each in (await engine.cluster())["stages"]]
    result["read_gb"] = read_bytes(source.spec, setup) / 1e9
    result["rows"] = []
    for batch in setup.batches:
        await run_batch(engine, batch, setup.prompt, WARM_UP_TOKENS)
        receipts, decode_s = await run_batch(engine, batch, setup.prompt, setup.tokens)
        result["rows"].append(row_of(batch, receipts, decode_s, setup))
        print(f"batch {batch}: {result['rows'][-1]['tok_s']} tok/s", file=sys.stderr, flush=True)
    engine.stop()


def read_bytes(spec: ModelSpec, setup: Setup) -> int:
    """Weights that one step reads, over all stages."""
    stage = Stage(LayerRange(0, spec.layers), embedding=True, head=True)
    return spec.read_parameters(stage) * (2 if setup.dtype == "fp16" else 4)


async def run_batch(
    engine: PipelineEngine, batch: int, prompt: int, tokens: int
) -> tuple[list[dict[str, Any]], float]:
    """The receipts of so many equal requests at once, and how long they decoded together."""
    arrivals: list[list[float]] = []

    async def one(number: int) -> dict[str, Any]:
        order = Order(
            prompt=tuple(3 + (number + i) % 200 for i in range(prompt)), max_new_tokens=tokens,
            sampling=Sampling(), stop_ids=frozenset(), received_s=MonotonicClock().now_s(),
        )  # fmt: skip
        generation = await engine.submit(order)
        arrivals.append([time.perf_counter() async for _ in generation])
        return generation.receipt(MonotonicClock().now_s(), tokens)

    receipts = await asyncio.gather(*(one(number) for number in range(batch)))
    together_s = min(each[-1] for each in arrivals) - max(each[0] for each in arrivals)
    return receipts, together_s


def row_of(
    batch: int, receipts: list[dict[str, Any]], decode_s: float, setup: Setup
) -> dict[str, Any]:
    """Medians of all decoded tokens; `hop_us` is what is not compute, for each of the hops."""
    tokens = [token for receipt in receipts for token in receipt["per_token"][1:]]
    median = {
        kind: statistics.median(token[f"{kind}_ms"] for token in tokens)
        for kind in ("total", "compute", "transfer", "waiting", "other")
    }
    beside_ms = median["total"] - median["compute"]
    return {
        "batch": batch,
        "tok_s": round(batch * (setup.tokens - 1) / max(decode_s, 1e-9), 1),
        **{f"{kind}_ms": round(ms, 3) for kind, ms in median.items()},
        "hop_us": round(beside_ms / WORKERS * 1e3),
    }


# -- what it comes to


def faults(document: dict[str, Any]) -> list[str]:
    """Adds what follows from the rows together to each row. Targets are an H200's."""
    found = []
    if document.get("tests", {}).get("exit_code", 0) != 0:
        found.append("the tests failed, or took too long")
    allowed_gb = WORKERS * MEMORY_BYTES / 1e9
    if document["used_gb_by_all"] > allowed_gb:
        found.append(f"the workers use {document['used_gb_by_all']} GB of {allowed_gb:.1f} GB")
    alone = document["rows"][0]["tok_s"]
    for row in document["rows"]:
        read_gb_s = document["read_gb"] / (row["compute_ms"] / 1e3)
        row["copy_share"] = round(read_gb_s / document["copy_gb_s"], 3)
        row["efficiency"] = round(row["tok_s"] / (row["batch"] * alone), 3)
        targets = TARGETS.get(row["batch"], {}) if "H200" in document["device"] else {}
        found += [
            f"batch {row['batch']}: {name} {row[name]} is below {least}"
            for name, least in targets.items()
            if row[name] < least
        ]
    return found


def print_summary(document: dict[str, Any]) -> None:
    names = (
        "batch", "tok_s", "total_ms", "compute_ms", "transfer_ms", "waiting_ms", "other_ms",
        "hop_us", "copy_share", "efficiency",
    )  # fmt: skip
    label = "REHEARSAL, figures mean nothing: " if document["rehearsal"] else ""
    print(f"\n{label}{document['model']}, weights: random unless demo, {document['device']}")
    print(f"copy {document['copy_gb_s']} GB/s, load {document['load_s']} s, stages "
          f"{document['stages']}, used by all {document['used_gb_by_all']} GB")  # fmt: skip
    for each in document["products"]:
        share = each["gb_s"] / document["copy_gb_s"]
        print(f"  {each['product']:9} x {each['rows']:2} rows: {each['gb_s']} GB/s, {share:.2f}")
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in document["rows"]:
        print(f"| {' | '.join(str(row[name]) for name in names)} |")
    for fault in document["faults"]:
        print(f"! {fault}")
    print("FAIL" if document["faults"] else "pass")


if __name__ == "__main__":
    raise SystemExit(main())
