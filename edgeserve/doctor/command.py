"""`edgeserve doctor`: this box, the workers, and what would go wrong at start.

The table goes to stdout or, with --json, to stderr, and stdout holds one line with one document.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from edgeserve.allowance import cores
from edgeserve.box import installed_torch, look_at_box
from edgeserve.clock import MonotonicClock
from edgeserve.config import GatewaySettings, WorkerSettings, cache_folder, gpu_environment
from edgeserve.doctor.examined import Answered, Examined, Here, Silent
from edgeserve.doctor.findings import judge
from edgeserve.doctor.report import DoctorReport, print_report, to_json
from edgeserve.doctor.visit import visit
from edgeserve.errors import BadModel, EdgeserveError
from edgeserve.families.folder import ModelSource, weight_files
from edgeserve.gpu import look_at_driver
from edgeserve.hugging_face.find import files_folder, find_model
from edgeserve.pipeline.cluster import Member, plan_for
from edgeserve.plan.facts import Plan
from edgeserve.toolchain import why_no_kernels
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.loop import run_on_loop


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    as_gateway: GatewaySettings
    """What a gateway would be started with here; its workers are visited."""
    as_worker: WorkerSettings
    as_json: bool = False


def run_doctor(options: DoctorOptions) -> int:
    """0 if all is well, 1 if something would fail. Raises EdgeserveError (3) if it cannot look."""
    examined = _examine(options)
    report = DoctorReport(examined=examined, findings=judge(examined))
    print_report(report, Console(stderr=options.as_json, highlight=False))
    if options.as_json:
        sys.stdout.write(json.dumps(to_json(report)) + "\n")
    return 0 if report.is_well else 1


def _examine(options: DoctorOptions) -> Examined:
    model = options.as_gateway.model or options.as_worker.model
    folder = files_folder(model) if model else cache_folder(options.as_worker.cache)
    here = _look_here(options, folder)
    workers, members = run_on_loop(_visit(options.as_gateway))
    source = _open(model) if model else None
    if not isinstance(source, ModelSource):
        return Examined(here=here, workers=workers, plan=source)
    plan = _plan(options.as_gateway, source, members)
    return Examined(here=here, workers=workers, plan=plan, warnings=source.warnings)


def _look_here(options: DoctorOptions, folder: Path) -> Here:
    environment = gpu_environment()
    driver = look_at_driver(environment.visible_devices, by_slot=environment.counts_by_slot)
    here = Here(
        box=look_at_box(folder, driver.version),
        driver=driver,
        torch=installed_torch(),
        why_no_kernels="",
        cores=cores(),
        as_gateway=options.as_gateway,
        as_worker=options.as_worker,
    )
    if not (here.may_take_gpu and driver.is_there and not driver.is_hidden):
        return here
    why_not = why_no_kernels(environment.compiler, environment.kernel_cache)
    return replace(here, why_no_kernels=why_not)


async def _visit(
    settings: GatewaySettings,
) -> tuple[tuple[Answered | Silent, ...], tuple[Member, ...]]:
    clients = [WorkerClient(each, settings.token) for each in settings.workers]
    try:
        return await visit(clients, MonotonicClock())
    finally:
        for client in clients:
            await client.close()


def _plan(
    settings: GatewaySettings, source: ModelSource, members: tuple[Member, ...]
) -> Plan | EdgeserveError | None:
    """The plan that a gateway would make, or why it could not. None if a worker is missing, or this
    is a worker's box, which then has the weights.
    """
    try:
        if not settings.workers:
            _check_weights(source)
        elif len(members) == len(settings.workers):
            return plan_for(settings, source, members)
    except EdgeserveError as error:
        return error
    return None


def _open(model: str) -> ModelSource | EdgeserveError:
    try:
        return find_model(model)
    except EdgeserveError as error:
        return error
    except OSError as error:  # a folder above it that may not be searched
        return BadModel(f"{model} cannot be read: {error.strerror}")


def _check_weights(source: ModelSource) -> None:
    """Their headers are whole, and all files are there, unless they are still to be fetched."""
    if source.folder is not None and source.revision is None:
        weight_files(source.folder)
