"""How fast a slice gets to a worker: streamed from the gateway, from the worker's cache, from local
files. On loopback, where the processors bound it and not the network.

Makes a checkpoint of random numbers, starts a worker for each way and a gateway's engine for each
start, in turns. It measures no network, and no disk: what was just written is read from memory.
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, GatewaySettings, address
from edgeserve.families.folder import open_model
from edgeserve.families.rules import stage_tensors
from edgeserve.families.stage import cut
from edgeserve.pipeline.engine import PipelineEngine

LAYERS = 3
CONFIG = """{"architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 2048,
"intermediate_size": 5632, "num_hidden_layers": %d, "num_attention_heads": 16,
"num_key_value_heads": 16, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
"torch_dtype": "bfloat16"}"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        size_bytes = save_model(Path(folder) / "model")
        took = [one_round(Path(folder)) for _ in range(options.repeats)]
    print(f"a slice of {size_bytes / 1e9:.2f} GB; medians of {options.repeats}")
    print("| way | start s | of it loading s | GB/s |")
    for way in took[0]:
        start_s = statistics.median(each[way][0] for each in took)
        load_s = statistics.median(each[way][1] for each in took)
        print(f"| {way} | {start_s:.2f} | {load_s:.2f} | {size_bytes / 1e9 / start_s:.2f} |")


def save_model(folder: Path) -> int:
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG % LAYERS)
    spec = open_model(str(folder)).spec
    tensors = {
        each.name: torch.randn(each.shape, dtype=torch.bfloat16) * 0.02
        for each in stage_tensors(spec, cut((LAYERS,))[0])
    }
    save_file(tensors, folder / "model.safetensors")
    return sum(each.nbytes for each in tensors.values())


def one_round(folder: Path) -> dict[str, tuple[float, float]]:
    """Seconds of each start until the stage is loaded, and of its Load alone."""
    model, notes = str(folder / "model"), folder / "notes"
    away, here = ("--local-files", "off"), ("--local-files", "on")
    took = {
        "streamed, files hashed first": one_start(model, notes, folder / "cache", away),
        "from the cache": one_start(model, notes, folder / "cache", away),
    }
    shutil.rmtree(folder / "cache")
    took["streamed"] = one_start(model, notes, folder / "cache", away)
    took["local files, hashed first"] = one_start(model, notes, folder / "other", here)
    took["local files"] = one_start(model, notes, folder / "other", here)
    for each in (notes, folder / "cache", folder / "other"):
        shutil.rmtree(each)
    return took


def one_start(model: str, notes: Path, cache: Path, flags: Sequence[str]) -> tuple[float, float]:
    command = [sys.executable, "-m", "edgeserve", "worker", "--listen", "127.0.0.1:0", *flags]
    command += ["--device", "cpu", "--memory", "4GB", "--cache", str(cache)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            where = address(worker.stdout.readline().split()[-1])
            return asyncio.run(loading_s(where, model, notes))
        finally:
            worker.terminate()


async def loading_s(where: Address, model: str, notes: Path) -> tuple[float, float]:
    settings = GatewaySettings(workers=(where,), model=model, dtype="bf16", cache=str(notes))
    engine = PipelineEngine(settings, open_model(model), MonotonicClock())
    start_s = time.perf_counter()
    await engine.start()
    took_s = time.perf_counter() - start_s
    (stage,) = engine.cluster()["stages"]
    print(stage["weights"], file=sys.stderr)
    await asyncio.to_thread(engine.stop)
    load_s: Any = stage["load_s"]
    return took_s, load_s


if __name__ == "__main__":
    main()
