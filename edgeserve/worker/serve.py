"""The worker process from start to end."""

from __future__ import annotations

import logging
import sys

from edgeserve.box import first_gpu, look_at_box
from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, WorkerSettings, cache_folder
from edgeserve.errors import BadSettings
from edgeserve.hugging_face.find import files_folder
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
    device = open_device(settings, clock)
    folder = files_folder(settings.model) if settings.model else cache_folder(settings.cache)
    box = look_at_box(folder, first_gpu())
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
