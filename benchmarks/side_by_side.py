"""edgeserve beside its peers, in one run: `python -m benchmarks.side_by_side`.

Every system gets the same shape, prompts, steps and threads, on this machine, one after another:
in one order, then in the other (A B C, C B A, ...), each started anew for its turn. Tables give
medians and spreads of the turns, and ratios within a round; a probe of the memory's bandwidth
around each turn shows where something else was running. llama.cpp comes from outside:

    python -m benchmarks.side_by_side --llama-cpp BIN_DIR --gguf BF16.gguf --gguf-q8 Q8_0.gguf

What it does not measure: text quality, start-up, requests that arrive at different times
(`benchmarks.schedule_effects` does the latter).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.llama_cpp import LlamaCpp
from benchmarks.machine import measure_bandwidth, this_machine
from benchmarks.measures import PARTS, Figures
from benchmarks.our_cluster import OurCluster
from benchmarks.tables import (
    LLAMA_CPP,
    LLAMA_CPP_Q8,
    ONE_WORKER,
    THREE_WORKERS,
    THREE_WORKERS_INT8,
    TRANSFORMERS,
    Turn,
    ratios,
    report,
)
from edgeserve.allowance import cores
from edgeserve.config import dtype


class Measurable(Protocol):
    def measure(self, parts: Collection[str]) -> Figures:
        """Each of `parts` once, in processes that have ended when it returns."""
        ...


@dataclass(frozen=True, kw_only=True)
class TransformersGenerate:
    threads: int

    def measure(self, parts: Collection[str]) -> Figures:
        command = [
            sys.executable, "-m", "benchmarks.transformers_generate",
            "--threads", str(self.threads), "--parts", ",".join(parts),
        ]  # fmt: skip
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures


@dataclass(frozen=True, kw_only=True)
class System:
    name: str
    measurable: Measurable
    parts: frozenset[str]
    """That it takes part in."""


def main() -> None:
    options = make_parser().parse_args()
    wanted = frozenset(options.only)
    systems, left_out = choose(options)
    systems = [each for each in systems if each.parts & wanted]
    turns = take_turns(systems, wanted, options)
    machine = this_machine()
    print(report(machine, turns, left_out))
    if options.json:
        document = {
            "machine": asdict(machine),
            "left_out": left_out,
            "turns": [asdict(each) for each in turns],
            "ratios": [asdict(each) for each in ratios(turns)],
        }
        print(json.dumps(document))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.side_by_side", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--only", type=_parts, default=PARTS, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each system (default: 3)")
    parser.add_argument(
        "--threads", type=int, default=cores(), help="of every system (default: the cores)"
    )
    parser.add_argument("--llama-cpp", type=Path, metavar="BIN_DIR", help="its programs")
    parser.add_argument("--gguf", type=Path, help="the shape in bf16 or f16, whichever is faster")
    parser.add_argument("--gguf-q8", type=Path, help="the shape in Q8_0")
    parser.add_argument(
        "--llama-threads", type=int, metavar="N", help="of each RPC server (default: --threads)"
    )
    parser.add_argument(
        "--llama-flags", type=shlex.split, default=(), help="more for llama-batched-bench"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document as the last line")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    for part in parts:
        if part not in PARTS:
            raise argparse.ArgumentTypeError(f"{part!r} is none of {', '.join(PARTS)}")
    return parts


def choose(options: argparse.Namespace) -> tuple[list[System], dict[str, str]]:
    """The systems that can be had, and why the others cannot, by name."""
    threads = options.threads
    has_int8, has_llama = _has_int8(), options.llama_cpp is not None
    three = OurCluster(workers=3, dtype="bf16", threads=threads)
    int8 = OurCluster(workers=3, dtype="int8", threads=threads)
    one = OurCluster(workers=1, dtype="bf16", threads=threads)
    found = [
        _system(THREE_WORKERS, three, "decode", "prefill", "context", "memory"),
        _system(ONE_WORKER, one, "decode", "prefill"),
        _system(TRANSFORMERS, TransformersGenerate(threads=threads), "decode", "prefill"),
    ]
    left_out = {}
    if has_int8:
        found.insert(1, _system(THREE_WORKERS_INT8, int8, "int8"))
    else:
        left_out[THREE_WORKERS_INT8] = "this version has no int8"
    for name, gguf, flag, parts in (
        (LLAMA_CPP, options.gguf, "--gguf", ("decode", "prefill")),
        (LLAMA_CPP_Q8, options.gguf_q8, "--gguf-q8", ("int8",)),
    ):
        if has_llama and gguf is not None:
            peer = LlamaCpp(
                binaries=options.llama_cpp, gguf=gguf, threads=threads,
                server_threads=options.llama_threads or threads, flags=tuple(options.llama_flags),
            )  # fmt: skip
            found.append(_system(name, peer, *parts))
        else:
            left_out[name] = f"not given: it needs --llama-cpp and {flag}"
    return found, left_out


def _has_int8() -> bool:
    try:
        dtype("int8")
    except ValueError:
        return False
    return True


def _system(name: str, measurable: Measurable, *parts: str) -> System:
    return System(name=name, measurable=measurable, parts=frozenset(parts))


def take_turns(
    systems: Sequence[System], wanted: frozenset[str], options: argparse.Namespace
) -> list[Turn]:
    """A B C, C B A, A B C, ...: what drifts during the run falls on all of them alike."""
    turns = []
    for repeat in range(options.repeats):
        for system in systems if repeat % 2 == 0 else reversed(systems):
            before = measure_bandwidth(options.threads)
            figures = system.measurable.measure(system.parts & wanted)
            after = measure_bandwidth(options.threads)
            turn = Turn(
                repeat=repeat, system=system.name, figures=figures, before=before, after=after
            )
            turns.append(turn)
            print(turn.line, file=sys.stderr, flush=True)
    return turns


if __name__ == "__main__":
    main()
