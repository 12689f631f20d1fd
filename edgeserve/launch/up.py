"""`edgeserve up`: N workers and a gateway on this machine, one first answer, and an orderly end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from edgeserve.errors import EdgeserveError
from edgeserve.hugging_face.find import find_model
from edgeserve.launch.processes import Child, start_child

START_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 3600.0
ANSWER_TIMEOUT_S = 300.0
WATCH_PERIOD_S = 0.1
DRAIN_TIMEOUT_S = "8"  # less than a child has to stop in
NVIDIA_DRIVER = Path("/dev/nvidiactl")
MEMORY_SHARE = 0.7  # of what is free now, for all workers together


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    model: str
    workers: int
    port: int
    prompt: str
    """Asked once when the cluster is up; empty asks nothing."""
    worker_flags: Mapping[str, str]
    """Settings of `edgeserve worker` that are passed on, by flag name without dashes."""
    gateway_flags: Mapping[str, str]


def run_up(options: UpOptions) -> int:
    """Serves until SIGINT or SIGTERM, or until a process of it ends. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    find_model(options.model)  # what is wrong with its name is said before anything starts
    children: list[Child] = []
    try:
        url = _start(options, children)
        if options.prompt:
            sys.stdout.write(first_answer(url, options.prompt))
        sys.stdout.write(f"serving at {url}; Ctrl-C ends it\n")
        sys.stdout.flush()
        return _watch(children)
    except KeyboardInterrupt:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # once is enough: the end is under way
            signal.signal(number, signal.SIG_IGN)
        for child in reversed(children):  # the gateway first: it drains while workers compute
            child.stop()


def _start(options: UpOptions, children: list[Child]) -> str:
    children += (_start_worker(i, options) for i in range(options.workers))
    addresses = [child.wait_until_announced(START_TIMEOUT_S) for child in children]
    gateway = start_child(
        "the gateway",
        ["gateway", "--workers", ",".join(addresses), "--model", options.model,
         "--listen", f"127.0.0.1:{options.port}",
         *_as_flags({"drain_timeout": DRAIN_TIMEOUT_S, **options.gateway_flags})],
        "edgeserve gateway serving at",
        {},
    )  # fmt: skip
    children.append(gateway)
    return gateway.wait_until_announced(LOAD_TIMEOUT_S)


def _start_worker(i: int, options: UpOptions) -> Child:
    flags = {**worker_share(options.workers, options.worker_flags), **options.worker_flags}
    return start_child(
        f"worker {i}",
        ["worker", "--listen", "127.0.0.1:0", *_as_flags(flags)],
        "edgeserve worker listening on",
        {},
    )


def worker_share(workers: int, flags: Mapping[str, str]) -> dict[str, str]:
    """Each worker's part of this machine's memory, unless `flags` say otherwise. A GPU's is asked
    of the GPU, and a card's that is not here is not taken from this machine. All have all cores: a
    frame is with one worker at a time, and the others sleep.
    """
    share: dict[str, str] = {}
    if "pace" in flags:
        return share
    if flags.get("device", "auto") == "cpu" or not NVIDIA_DRIVER.exists():
        share["memory"] = str(int(MEMORY_SHARE * psutil.virtual_memory().available / workers))
    return share


def first_answer(url: str, prompt: str) -> str:
    """One real request: text and receipt, for people."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 200, "details": True}}
    response = httpx.post(f"{url}/generate", json=body, timeout=ANSWER_TIMEOUT_S)
    answer: dict[str, Any] = response.json()
    if response.status_code != httpx.codes.OK:
        raise EdgeserveError(f"the first request failed: {answer.get('error', response.text)}")
    timing = answer["timing"]
    brief = {key: value for key, value in timing.items() if key != "per_token"}
    labels = ["weights: random"] if answer.get("weights") == "random" else []
    labels += [answer["simulation"]] if "simulation" in answer else []
    label = f" ({', '.join(labels)})" if labels else ""
    return f"\n{prompt}{answer['generated_text']}{label}\n\n{json.dumps(brief, indent=2)}\n\n"


def _watch(children: Sequence[Child]) -> int:
    """Returns when one of them ends, with its exit code."""
    while True:
        for child in children:
            code = child.ended_within(WATCH_PERIOD_S)
            if code is not None:
                sys.stderr.write(f"{child.name} ended with exit code {code}; stopping the others\n")
                return code if code > 0 else 3


def _as_flags(settings: Mapping[str, str]) -> list[str]:
    """Values that stand for a switch that is on come without the value."""
    flags: list[str] = []
    for name, value in settings.items():
        flags.append("--" + name.replace("_", "-"))
        if value != "yes":
            flags.append(value)
    return flags
