"""What the doctor saw and found: a document for programs, a table for people, of the same facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgeserve import __version__
from edgeserve.box import Box
from edgeserve.doctor.examined import Answered, Examined, Here, Silent
from edgeserve.doctor.findings import Finding
from edgeserve.doctor.link import Link
from edgeserve.errors import EdgeserveError
from edgeserve.plan.amount import amount
from edgeserve.wire import PROTOCOL

HERE = "this box"
UNKNOWN = "?"
Facts = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class DoctorReport:
    examined: Examined
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        return not any(each.is_fault for each in self.findings)


def to_json(report: DoctorReport) -> dict[str, Any]:
    """What `doctor --json` prints."""
    return {
        "boxes": [{key: facts.get(key) for key in TITLES} for facts in _columns(report.examined)],
        "verdict": {
            "pass": report.is_well,
            "reasons": [each.text for each in report.findings if each.is_fault],
            "notes": [each.text for each in report.findings if not each.is_fault],
        },
    }


def print_report(report: DoctorReport, console: Console) -> None:
    """For people."""
    console.print(_table(report.examined))
    for finding in report.findings:
        console.print(Text(f"{'!' if finding.is_fault else '-'} {finding.text}"), soft_wrap=True)
    console.print(Text("verdict: " + ("all is well" if report.is_well else "FAIL")))


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms"


def _megabytes_per_s(value: float) -> str:
    return f"{value / 1e6:.0f} MB/s"


def _limit(value: int) -> str:
    return amount(value) if value else "none"


TITLES: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "box": ("", str),
    "edgeserve": ("edgeserve", str),
    "protocol": ("protocol", str),
    "python": ("Python", str),
    "torch": ("PyTorch", str),
    "driver": ("NVIDIA driver", str),
    "device": ("device", str),
    "device_name": ("", str),
    "memory_bytes": ("memory for a worker", amount),
    "memory_free_bytes": ("memory free", amount),
    "memory_limit_bytes": ("memory limit", _limit),
    "disk_free_bytes": ("disk free", amount),
    "round_trip_ms": ("10 KB there and back", _milliseconds),
    "idle_round_trip_ms": ("after 0.25 s of silence", _milliseconds),
    "bytes_per_s": ("1.3 MB, one way", _megabytes_per_s),
}
"""Keys of a box in the document; their titles in the table, and how they read there."""


def _columns(examined: Examined) -> list[Facts]:
    return [_of_here(examined.here), *map(_of_worker, examined.workers)]


def _of_here(here: Here) -> Facts:
    """There is no link to itself."""
    gpu = here.gpu
    facts = {
        **_of_box(here.box),
        "box": HERE,
        "edgeserve": __version__,
        "protocol": PROTOCOL,
        "device": "cuda" if gpu else "cpu",
        "device_name": gpu.name if gpu else f"{here.cores} cores",
        "memory_bytes": here.memory_bytes,
        "memory_free_bytes": here.memory_free_bytes,
    }
    unknown = [key for key in ("memory_bytes", "memory_free_bytes") if gpu and not facts[key]]
    return {key: value for key, value in facts.items() if key not in unknown}


def _of_worker(worker: Answered | Silent) -> Facts:
    if isinstance(worker, Silent):
        return {"box": worker.worker}
    told = worker.description
    return {
        **(_of_box(told.box) if told.box else {}),
        **_of_link(worker.link),
        "box": worker.worker,
        "edgeserve": told.package_version,
        "protocol": told.protocol,
        "device": told.device,
        "device_name": told.device_name,
        "memory_bytes": told.memory_bytes,
    }


def _of_box(box: Box) -> Facts:
    return {
        "python": box.python_version,
        "torch": box.torch_version,
        "driver": box.driver_version,
        "memory_free_bytes": box.memory_free_bytes,
        "memory_limit_bytes": box.memory_limit_bytes,
        "disk_free_bytes": box.disk_free_bytes,
    }


def _of_link(link: Link | EdgeserveError) -> Facts:
    if isinstance(link, EdgeserveError):
        return {}
    return {
        "round_trip_ms": round(link.round_trip_s * 1e3, 3),
        "idle_round_trip_ms": round(link.idle_round_trip_s * 1e3, 3),
        "bytes_per_s": round(link.bytes_per_s),
    }


def _table(examined: Examined) -> Table:
    """A column for each box."""
    columns = _columns(examined)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for facts in columns:
        table.add_column(Text(facts["box"]), overflow="fold")
    for key, (title, told) in TITLES.items():
        if key != "box":
            cells = [Text(_cell(facts, key, told)) for facts in columns]
            table.add_row(Text(title), *cells)
    return table


def _cell(facts: Facts, key: str, told: Callable[[Any], str]) -> str:
    """There is no link from a box to itself: nothing is unknown there."""
    if key in facts:
        return told(facts[key])
    return "" if facts["box"] == HERE else UNKNOWN
