"""`edgeserve up`: N workers and a gateway on this machine, one first answer, and an orderly end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeserve.box import installed_torch, memory_room
from edgeserve.clock import MonotonicClock
from edgeserve.config import GatewaySettings, WorkerSettings, gpu_environment
from edgeserve.errors import BadSettings, EdgeserveError
from edgeserve.gpu import NvidiaDriver, look_at_driver
from edgeserve.hugging_face.find import find_model
from edgeserve.launch.answer import first_answer, show_answer
from edgeserve.launch.check import WorkersHere, check_device, check_fit, check_port, takes_gpu
from edgeserve.launch.processes import GRACE_S, Child, start_child, stop_all, told_of_the_killed

START_TIMEOUT_S = 120.0
LOAD_TIMEOUT_S = 3600.0
WATCH_PERIOD_S = 0.1
DRAIN_TIMEOUT_S = 2.5  # who ends a cluster on one machine waits in front of it
MEMORY_SHARE = 0.7  # of what is free now, for all workers together
GPU_SHARE = 0.95  # the same of a GPU, whose display may want some more of it


@dataclass(frozen=True, kw_only=True)
class UpOptions:
    model: str
    workers: int
    port: int
    prompt: str
    """Asked once when the cluster is up; empty asks nothing."""
    as_json: bool
    """Print nothing but the answer, as a document."""
    api_key: str
    """With which it is asked; empty if the gateway needs none."""
    as_worker: WorkerSettings
    as_gateway: GatewaySettings
    """What the processes will find among flags, variables and in edgeserve.toml."""
    card_bytes: int
    """Memory of the card that workers are paced like; 0 if they compute."""
    worker_flags: Mapping[str, str]
    """Settings of `edgeserve worker` that are passed on, by flag name without dashes."""
    gateway_flags: Mapping[str, str]


def run_up(options: UpOptions) -> int:
    """Serves until SIGINT or SIGTERM, or until a process of it ends. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    workers: list[Child] = []
    gateway: Child | None = None
    try:
        environment = gpu_environment()
        driver = look_at_driver(environment.visible_devices, by_slot=environment.counts_by_slot)
        share = worker_share(options.workers, options.as_worker, driver)
        _check(options, driver, share)
        workers += (_start_worker(i, options, share) for i in range(options.workers))
        gateway = _start_gateway(options, workers)
        url = gateway.wait_until_announced(LOAD_TIMEOUT_S)
        _show(url, options)
        return _watch([*workers, gateway])
    except KeyboardInterrupt:
        return 0
    except EdgeserveError as error:
        sys.stderr.writelines(f"{each}\n" for each in told_of_the_killed(workers, error))
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # once is enough: the end is under way
            signal.signal(number, signal.SIG_IGN)
        if gateway is not None and gateway.has_announced:
            gateway.stop(_drain_s(options) + GRACE_S)  # what it drains, the workers compute
        stop_all([*workers, *([gateway] if gateway else [])], MonotonicClock())


def _show(url: str, options: UpOptions) -> None:
    if options.prompt:
        show_answer(first_answer(url, options.prompt, options.api_key), options.as_json)
    told = sys.stderr if options.as_json else sys.stdout
    told.write(f"serving at {url}; Ctrl-C ends it\n")
    told.flush()


def _check(options: UpOptions, driver: NvidiaDriver, share: Mapping[str, str]) -> None:
    """Whatever can be known to be wrong is said before anything starts."""
    if options.as_json and not options.prompt:
        raise BadSettings("--json prints the answer to --prompt: give both, or neither")
    check_device(options.as_worker, driver, installed_torch())
    check_port(options.port)
    source = find_model(options.model)
    asked_bytes = int(share["memory"]) if "memory" in share else options.as_worker.memory
    most_bytes = options.card_bytes or asked_bytes
    memory_bytes = min(asked_bytes or most_bytes, most_bytes) or None
    workers = WorkersHere.of(options.workers, memory_bytes, options.as_worker, driver)
    check_fit(source, options.as_gateway, workers)


def _drain_s(options: UpOptions) -> float:
    asked_s = options.as_gateway.drain_timeout
    is_asked = "drain_timeout" in options.gateway_flags or asked_s != GatewaySettings.drain_timeout
    return asked_s if is_asked else DRAIN_TIMEOUT_S


def _start_gateway(options: UpOptions, workers: Sequence[Child]) -> Child:
    addresses = [worker.wait_until_announced(START_TIMEOUT_S) for worker in workers]
    return start_child(
        "the gateway",
        ["gateway", "--workers", ",".join(addresses), "--model", options.model,
         "--listen", f"127.0.0.1:{options.port}",
         *_as_flags({"drain_timeout": str(_drain_s(options)), **options.gateway_flags})],
        "edgeserve gateway serving at",
        {},
    )  # fmt: skip


def _start_worker(i: int, options: UpOptions, share: Mapping[str, str]) -> Child:
    flags = {**share, **options.worker_flags}
    return start_child(
        f"worker {i}",
        ["worker", "--listen", "127.0.0.1:0", *_as_flags(flags)],
        "edgeserve worker listening on",
        {},
    )


def worker_share(workers: int, settings: WorkerSettings, driver: NvidiaDriver) -> dict[str, str]:
    """Each worker's part of the memory that this process may have, unless `settings` say otherwise.
    One alone on a GPU asks the GPU, and a card's that is not here is taken from nobody. All have
    all cores: a frame is with one worker at a time, and the others sleep.
    """
    if settings.pace or settings.memory:
        return {}
    if not takes_gpu(settings, driver):
        return {"memory": str(int(MEMORY_SHARE * memory_room().free_for_each(workers)))}
    free_bytes = driver.gpu.memory_free_bytes if driver.gpu else 0
    if workers == 1 or not free_bytes:
        return {}
    return {"memory": str(int(GPU_SHARE * free_bytes / workers))}


def _watch(children: Sequence[Child]) -> int:
    """Returns when one of them ends, with its exit code."""
    while True:
        for child in children:
            code = child.ended_within(WATCH_PERIOD_S)
            if code is not None:
                sys.stderr.write(f"{child.name} {child.how_it_ended()}; stopping the others\n")
                return code if code > 0 else 3


def _as_flags(settings: Mapping[str, str]) -> list[str]:
    """Values that stand for a switch that is on come without the value."""
    flags: list[str] = []
    for name, value in settings.items():
        flags.append("--" + name.replace("_", "-"))
        if value != "yes":
            flags.append(value)
    return flags
