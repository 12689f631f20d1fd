"""The worker process from start to end."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable

from edgeserve.box import look_at_box
from edgeserve.clock import MonotonicClock
from edgeserve.config import Address, WorkerSettings, cache_folder, gpu_environment
from edgeserve.errors import BadSettings, DeviceLost
from edgeserve.gpu import look_at_driver
from edgeserve.hugging_face.find import files_folder
from edgeserve.toolchain import why_no_kernels
from edgeserve.wire.loop import keep_what_is_here, run_on_loop, told_to_end
from edgeserve.wire.server import WorkerServer
from edgeserve.worker.device import Device, open_device
from edgeserve.worker.handler import WorkerHandler

log = logging.getLogger(__name__)

GRACE_S = 5.0
WRITE_OUT_S = 1.0
"""For results to reach the network, before a lost device ends the process."""
READ_S = 0.2
"""For the gateway to read them, before its streams are cut."""
END_S = 3.0
"""From a lost device to the end of the process, whatever hangs."""
LAST_WORDS_S = 0.5
"""Then, for a log that nobody reads."""


def run_worker(settings: WorkerSettings) -> int:
    """Serves until SIGTERM, SIGINT or, if told to, the end of standard input. Returns the exit
    code.
    """
    check_exposure(settings.listen, settings.token, settings.insecure)
    clock = MonotonicClock()
    environment = gpu_environment()
    driver = look_at_driver(environment.visible_devices, by_slot=environment.counts_by_slot)
    device = open_device(settings, clock, driver)
    if device.kind == "cuda":
        check_toolchain()
    folder = files_folder(settings.model) if settings.model else cache_folder(settings.cache)
    box = look_at_box(folder, driver.version)
    keep_what_is_here()
    fuse = Fuse()
    handler = WorkerHandler(device, settings, clock, box, fuse.blow)
    run_on_loop(_serve(settings, device, handler, fuse))
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


async def _serve(
    settings: WorkerSettings, device: Device, handler: WorkerHandler, fuse: Fuse
) -> None:
    server = WorkerServer(handler, settings.token)
    blown = fuse.watched()
    listening = await server.start(settings.listen)
    # The line that `edgeserve up` waits for.
    sys.stdout.write(f"edgeserve worker listening on {listening}\n")
    sys.stdout.flush()
    log.info("%s (%s), %.1f GB", device.kind, device.name, device.memory_bytes / 1e9)
    told = told_to_end(settings.until_stdin_closes)
    await asyncio.wait({told, blown}, return_when=asyncio.FIRST_COMPLETED)
    if blown.done():
        await server.write_out(WRITE_OUT_S)
        await server.stop(READ_S)
        leave(DeviceLost.exit_code)
    await server.stop(GRACE_S)
    handler.close()


class Fuse:
    """Ends the process when its device has failed for good.

    Whoever watches the worker (systemd, Docker) starts it anew, and the gateway loads its stage
    again. It ends without Python's clean-up, which would ask the device to free what it holds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_blown = False
        self._notify: Callable[[], object] = lambda: None

    def watched(self) -> asyncio.Future[None]:
        """On the loop; done when it is blown."""
        loop = asyncio.get_running_loop()
        blown: asyncio.Future[None] = loop.create_future()
        self._notify = lambda: loop.call_soon_threadsafe(blown.set_result, None)
        return blown

    def blow(self, error: DeviceLost) -> None:
        """From any thread. The loop has a moment for what the gateway is to be told; one that hangs
        in a call of CUDA holds nothing up.
        """
        with self._lock:
            if self._is_blown:
                return
            self._is_blown = True
        last = threading.Timer(END_S, leave, (error.exit_code,))
        last.daemon = True
        last.start()
        log.error("%s; exit code %d", error, error.exit_code)
        self._notify()


def leave(exit_code: int) -> None:
    """At once, but for what is logged, if somebody reads it."""
    last_words = threading.Thread(target=_write_last_words, daemon=True)
    last_words.start()
    last_words.join(LAST_WORDS_S)
    os._exit(exit_code)


def _write_last_words() -> None:
    logging.shutdown()
    sys.stdout.flush()
