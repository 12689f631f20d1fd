"""llama.cpp as a system under test: three RPC servers, and its own batched benchmark as client.

Refuses to know how it was built and where its files come from: both are given. What its benchmark
does not do is left out of the comparison to its favour: it samples nothing (its tokens are drawn
before), knows no text and no HTTP, and counts decoding after a prompt that it reads once for all
sequences of a batch.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measures import (
    DECODE_BATCHES,
    DECODE_STEPS,
    PREFILL_TOKENS,
    PROMPT_TOKENS,
    Figures,
    decode,
    prefill,
)

SERVERS = 3
START_TIMEOUT_S = 20.0
RUN_TIMEOUT_S = 300.0
TRIES = 3
CONTEXT_TOKENS = max(DECODE_BATCHES) * 512
"""It gives each sequence an equal part, rounded up to 256."""
EVERY_LAYER_REMOTE = ("-ngl", "99", "-fit", "off")
"""Its log then names one buffer of weights for each server, and one of its own for the embedding's
rows, which it always looks up by itself."""


@dataclass(frozen=True, kw_only=True)
class LlamaCpp:
    binaries: Path
    gguf: Path
    threads: int
    """Of the client, which computes next to nothing."""
    server_threads: int
    """Of each server: as with our workers, one of them computes at a time."""
    flags: tuple[str, ...]

    def measure(self, parts: Collection[str]) -> Figures:
        """Each of `parts` once, with servers of its own."""
        figures: Figures = {}
        with self.servers() as pids:
            addresses = list(pids)
            if "decode" in parts:
                figures |= self._decode(addresses, DECODE_BATCHES)
            elif "int8" in parts:
                figures |= self._decode(addresses, (1,))
            if "prefill" in parts:
                figures |= self._prefill(addresses)
        return figures

    def _decode(self, addresses: Sequence[str], batches: Sequence[int]) -> Figures:
        rows = self.bench(addresses, PROMPT_TOKENS, DECODE_STEPS, batches)
        return {decode(int(row["pl"])): row["speed_tg"] for row in rows}

    def _prefill(self, addresses: Sequence[str]) -> Figures:
        """The second of two: the first one pays for its buffers."""
        rows = self.bench(addresses, PREFILL_TOKENS, 1, (1, 1))
        return {prefill(): rows[-1]["speed_pp"]}

    def bench(
        self, addresses: Sequence[str], prompt: int, steps: int, batches: Sequence[int]
    ) -> list[dict[str, float]]:
        """A row for each of `batches`, one after the other. The program hands its rows to a thread
        that its end does not always wait for, so a run may have to be repeated.
        """
        for _ in range(TRIES):
            rows = self.run(addresses, prompt, steps, batches)
            if len(rows) == len(batches):
                return rows
        raise SystemExit(f"llama-batched-bench lost rows of {batches} in each of {TRIES} runs")

    def run(
        self, addresses: Sequence[str], prompt: int, steps: int, batches: Sequence[int]
    ) -> list[dict[str, float]]:
        """Once; those rows that it has written."""
        command = [
            str(self.binaries / "llama-batched-bench"), "-m", str(self.gguf),
            "--rpc", ",".join(addresses), *EVERY_LAYER_REMOTE, "-t", str(self.threads),
            "-c", str(CONTEXT_TOKENS), "-npp", str(prompt), "-ntg", str(steps),
            "-npl", ",".join(map(str, batches)), "-pps", "--output-format", "jsonl", *self.flags,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
        )
        if done.returncode:
            raise SystemExit(
                f"llama-batched-bench ended with {done.returncode}: {' '.join(command)}\n"
                f"{done.stderr[-1000:]}"
            )
        return read_rows(done.stdout)

    @contextmanager
    def servers(self) -> Iterator[dict[str, int]]:
        """Their addresses, and the process of each."""
        ports = _free_ports(SERVERS)
        servers = [self._start_server(port) for port in ports]
        try:
            for port in ports:
                _wait_until_listening(port)
            yield {
                f"127.0.0.1:{port}": server.pid for port, server in zip(ports, servers, strict=True)
            }
        finally:
            for server in servers:
                server.kill()
                server.wait()

    def _start_server(self, port: int) -> subprocess.Popen[bytes]:
        binary = str(self.binaries / "ggml-rpc-server")
        return subprocess.Popen(
            [binary, "-t", str(self.server_threads), "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def read_rows(output: str) -> list[dict[str, float]]:
    """The JSON lines among whatever else the program says."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in listeners]
    for each in listeners:
        each.close()
    return ports


def _wait_until_listening(port: int) -> None:
    give_up_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > give_up_s:
                raise SystemExit(f"ggml-rpc-server does not listen on {port}") from None
            time.sleep(0.05)
        else:
            return
