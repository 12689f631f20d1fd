"""Boxes as the doctor would see them, all of them well; a test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeserve.box import Box
from edgeserve.config import Address, GatewaySettings, WorkerSettings
from edgeserve.doctor.examined import Answered, Examined, Here, Silent
from edgeserve.doctor.link import Link
from edgeserve.errors import EdgeserveError
from edgeserve.families.spec import Dtype
from edgeserve.gpu import Gpu, NvidiaDriver, Torch
from edgeserve.wire.messages import Description

GB = 10**9
BOX = Box(
    python_version="3.12.7",
    torch_version="2.13.0+cu130",
    driver_version="none",
    memory_free_bytes=10 * GB,
    disk_free_bytes=200 * GB,
)
GPU = Gpu(name="RTX 3060", driver_version="580.95.05", memory_free_bytes=12 * GB)
DRIVER = NvidiaDriver(version="580.95.05", gpu=GPU)
TORCH = Torch(version="2.13.0+cu130", cuda="13.0")
LINK = Link(round_trip_s=4e-4, idle_round_trip_s=1.2e-3, bytes_per_s=110e6)
WORKERS = ("10.0.0.2:50051", "10.0.0.3:50051")
DESCRIPTION = Description(
    device="cuda",
    device_name="RTX 3060",
    memory_bytes=11 * GB,
    reserve_bytes=GB // 2,
    memory_bytes_per_s=0.0,
    dtypes=(Dtype.FP16,),
    epoch=0,
    loaded=None,
    box=replace(BOX, driver_version="580.95.05"),
)


def gateways_box(**settings: Any) -> Here:
    """Of a gateway of `WORKERS`."""
    named = tuple(Address(each.partition(":")[0], 50051) for each in WORKERS)
    return workers_box(as_gateway=GatewaySettings(workers=named, token="t", **settings))


def workers_box(**differences: Any) -> Here:
    """One that names no workers."""
    well = Here(
        box=BOX,
        driver=NvidiaDriver(),
        torch=TORCH,
        why_no_kernels="",
        cores=4,
        as_gateway=GatewaySettings(),
        as_worker=WorkerSettings(),
    )
    return replace(well, **differences)


def answered(i: int, link: Link | EdgeserveError = LINK, **differences: Any) -> Answered:
    return Answered(worker=WORKERS[i], description=replace(DESCRIPTION, **differences), link=link)


def examined(*workers: Answered | Silent, here: Here | None = None, plan: Any = None) -> Examined:
    return Examined(here=here or gateways_box(), workers=workers, plan=plan)
