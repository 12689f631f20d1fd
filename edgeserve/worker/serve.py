"""The worker process from start to end."""

from __future__ import annotations

import logging
import sys

from edgeserve.box import look_at_box
from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, WorkerSettings, cache_folder, gpu_environment
from edgeserve.errors import BadSettings
from edgeserve.gpu import look_at_driver
from edgeserve.hugging_face.find import files_folder
from edgeserve.toolchain import why_no_kernels
from edgeserve.wire.loop import keep_what_is_here, run_on_loop, told_to_end
from edgeserve.wire.server import WorkerServer
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.handler import WorkerHandler

log = logging.getLogger(__name__)

GRACE_S = 5.0


def run_worker(settings: WorkerSettings) -> int:
    """Serves until SIGTERM, SIGINT or, if told to, the end of standard input. Returns the exit
    code.
    """
    check_exposure(settings.listen, settings.token, settings.insecure)
    clock = MonotonicClock()
    driver = look_at_driver(gpu_environment().visible_devices)
    device = open_device(settings, clock, driver)
    if device.kind == "cuda":
        check_toolchain()
    folder = files_folder(settings.model) if settings.model else cache_folder(settings.cache)
    box = look_at_box(folder, driver.version)
    keep_what_is_here()
    run_on_loop(_serve(settings, device, WorkerHandler(device, settings, clock, box)))
    return 0


def check_exposure(listen: Address, token: str, insecure: bool) -> None:
    """Nothing listens beyond loopback without a token, unless told to."""
    if not listen.is_loopback and not token and not insecure:
        raise BadSettings(
            f"--listen {listen} is open to the network, and there is no token; set "
            "EDGESERVE_TOKEN to the same secret on every box, or say --insecure if everybody on "
            "this network may use this worker"
        )


def check_toolchain() -> None:
    """Before gigabytes are loaded, and not after: raises BadSettings if no kernel could be
    compiled here.
    """
    environment = gpu_environment()
    why_not = why_no_kernels(environment.compiler, environment.kernel_cache)
    if why_not:
        raise BadSettings(f"{why_not}; or say --device cpu to compute on the CPU")


async def _serve(settings: WorkerSettings, device: Device, handler: WorkerHandler) -> None:
    server = WorkerServer(handler, settings.token)
    listening = await server.start(settings.listen)
    # The line that `edgeserve up` waits for.
    sys.stdout.write(f"edgeserve worker listening on {listening}\n")
    sys.stdout.flush()
    log.info("%s (%s), %.1f GB", device.kind, device.name, device.memory_bytes / 1e9)
    await told_to_end(settings.until_stdin_closes)
    await server.stop(GRACE_S)
    handler.close()
