"""How fast a slice gets to a worker and into its memory: streamed by the gateway, then loaded from
the cache, beside local files. On loopback, where processors bound it and not the network.

Makes a checkpoint of random numbers and starts a worker process for each turn. It measures no
network and no disk: what was just written is read from memory. Processor time is told beside the
time that passed, since a machine with other tenants changes only the latter much.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from edgeserve.cache.hashes import FileHashes
from edgeserve.config import Address, address
from edgeserve.families.folder import ModelSource, open_model
from edgeserve.families.rules import stage_tensors
from edgeserve.families.spec import Dtype
from edgeserve.families.stage_files import FoundTensor, find_tensors
from edgeserve.frames.stage import cut
from edgeserve.model.weights import WeightForm, load_found
from edgeserve.pipeline.supply import Supplier
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import LoadOrder

LAYERS = 8
CONFIG = """{"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 2048,
"intermediate_size": 5632, "num_hidden_layers": %d, "num_attention_heads": 16,
"num_key_value_heads": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
"torch_dtype": "bfloat16"}"""
STAGE = cut((LAYERS,))[0]
Took = tuple[float, float, float]
"""Seconds that passed, of the gateway's processor time, and of the worker's."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        source = save_model(Path(folder) / "model")
        gigabytes = source.spec.stage_bytes(STAGE, Dtype.BF16) / 1e9
        rounds = asyncio.run(all_rounds(source, Path(folder), options.repeats))
    print(f"a slice of {gigabytes:.2f} GB; medians of {options.repeats}\n")
    print("| | GB/s | s | processor s per GB: gateway | worker |")
    print("|---|--:|--:|--:|--:|")
    for way in rounds[0]:
        took_s, here_s, there_s = (
            statistics.median(each[way][i] for each in rounds) for i in range(3)
        )
        print(
            f"| {way} | {gigabytes / took_s:.2f} | {took_s:.2f} | {here_s / gigabytes:.2f} "
            f"| {there_s / gigabytes:.2f} |"
        )


def save_model(folder: Path) -> ModelSource:
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG % LAYERS)
    spec = open_model(str(folder)).spec
    tensors = {
        each.name: torch.randn(each.shape).mul_(0.02).to(torch.bfloat16)
        for each in stage_tensors(spec, STAGE)
    }
    save_file(tensors, folder / "model.safetensors")
    return open_model(str(folder))


async def all_rounds(source: ModelSource, folder: Path, repeats: int) -> list[dict[str, Took]]:
    return [await one_round(source, folder) for _ in range(repeats)]


async def one_round(source: ModelSource, folder: Path) -> dict[str, Took]:
    assert source.folder is not None
    notes, cache = folder / "notes", folder / "cache"
    local = find_tensors(source.folder, source.spec, STAGE)
    took = {"the gateway hashes its files": hashing(local, notes)}
    took["a worker is streamed its slice"] = await supplying(source, notes, cache, "off")
    took["a worker finds it in its cache"] = await supplying(source, notes, cache, "off")
    took["a worker finds local files, and hashes them"] = await supplying(
        source, notes, folder / "other", "on"
    )
    took["a worker finds local files that it knows"] = await supplying(
        source, notes, folder / "other", "on"
    )
    took["local files to memory"] = loading(local, source)
    took["cache to memory, checked"] = loading(cached(local, notes, cache), source)
    for each in (notes, cache, folder / "other"):
        shutil.rmtree(each)
    return took


def hashing(local: Sequence[FoundTensor], notes: Path) -> Took:
    hashes = FileHashes(notes)
    took_s, here_s = timed(lambda: [hashes.sha256(each.stored) for each in local])
    return took_s, here_s, 0.0


def cached(local: Sequence[FoundTensor], notes: Path, cache: Path) -> list[FoundTensor]:
    hashes, found = FileHashes(notes), []
    for each in local:
        sha256 = hashes.sha256(each.stored)
        blob = replace(
            each.stored, path=cache / "blobs" / sha256, start_byte=0, end_byte=each.stored.bytes
        )
        found.append(replace(each, stored=blob, sha256=sha256))
    return found


def loading(found: Sequence[FoundTensor], source: ModelSource) -> Took:
    """As a worker does, but for what its processor or GPU wants made of it."""
    form = WeightForm(torch.bfloat16)
    took_s, here_s = timed(
        lambda: load_found(found, source.spec, STAGE, form, lambda _done, _total: None)
    )
    return took_s, 0.0, here_s  # a worker's work, though it is done here


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and of processor time."""
    start_s, used_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start_s, time.process_time() - used_s


async def supplying(source: ModelSource, notes: Path, cache: Path, local_files: str) -> Took:
    flags = ("--local-files", local_files, "--cache", str(cache))
    with one_worker(flags) as (where, worker):
        client = WorkerClient(where, "")
        await client.describe(10.0)
        supplier = Supplier(source, notes)
        order = supplier.told(
            LoadOrder(
                epoch=1, model=source.reference, spec_hash=source.spec.spec_hash, stage=STAGE,
                dtype=Dtype.BF16, pages=1, frame_tokens_max=1,
            )
        )  # fmt: skip
        there_s = processor_s(worker)
        start_s, here_s = time.perf_counter(), time.process_time()
        _, delivery = await supplier.supply(client, order, lambda _step: None)
        took_s = time.perf_counter() - start_s
        here_s, there_s = time.process_time() - here_s, processor_s(worker) - there_s
        print(delivery, file=sys.stderr)
        await client.close()
    return took_s, here_s, there_s


def processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def one_worker(flags: Sequence[str]) -> Iterator[tuple[Address, psutil.Process]]:
    command = [sys.executable, "-m", "edgeserve", "worker", "--listen", "127.0.0.1:0", *flags]
    command += ["--device", "cpu", "--memory", "4GB", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            yield address(worker.stdout.readline().split()[-1]), psutil.Process(worker.pid)
        finally:
            worker.terminate()


if __name__ == "__main__":
    main()
