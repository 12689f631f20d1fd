"""The table and the document say the same, and all of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from edgeserve import __version__
from edgeserve.doctor.examined import Examined, Silent
from edgeserve.doctor.findings import judge
from edgeserve.doctor.report import TITLES, DoctorReport, print_report, to_json
from edgeserve.errors import StageUnavailable
from edgeserve.wire import PROTOCOL
from tests.doctor.made_up import (
    DRIVER,
    GB,
    GPU,
    WORKERS,
    answered,
    examined,
    gateways_box,
    workers_box,
)

GONE = Silent(worker=WORKERS[1], why=StageUnavailable("worker 10.0.0.3:50051 is gone"))


def document(seen: Examined) -> Any:
    return json.loads(json.dumps(to_json(DoctorReport(examined=seen, findings=judge(seen)))))


def table(seen: Examined) -> list[str]:
    out = io.StringIO()
    report = DoctorReport(examined=seen, findings=judge(seen))
    print_report(report, Console(file=out, width=120, highlight=False))
    return out.getvalue().splitlines()


def test_a_box_has_every_key_and_null_for_what_is_not_known() -> None:
    here, well, gone = document(examined(answered(0), GONE))["boxes"]

    assert list(here) == list(well) == list(gone) == list(TITLES)
    assert gone == {**dict.fromkeys(TITLES), "box": WORKERS[1]}
    assert here["round_trip_ms"] is None
    assert None not in well.values()


def test_a_workers_facts_are_its_own() -> None:
    _, well = document(examined(answered(0)))["boxes"]

    assert well == {
        "box": WORKERS[0], "edgeserve": __version__, "protocol": PROTOCOL, "python": "3.12.7",
        "torch": "2.13.0+cu130", "driver": "580.95.05", "device": "cuda", "device_name": "RTX 3060",
        "memory_bytes": 11 * GB, "memory_free_bytes": 10 * GB, "memory_limit_bytes": 0,
        "disk_free_bytes": 200 * GB,
        "round_trip_ms": 0.4, "idle_round_trip_ms": 1.2, "bytes_per_s": 110_000_000,
    }  # fmt: skip


def test_this_box_shows_the_device_that_a_worker_would_take() -> None:
    (on_cpu,) = document(examined(here=workers_box()))["boxes"]
    (on_gpu,) = document(examined(here=workers_box(driver=DRIVER)))["boxes"]

    assert (on_cpu["device"], on_cpu["device_name"]) == ("cpu", "4 cores")
    assert (on_cpu["memory_bytes"], on_cpu["memory_free_bytes"]) == (8 * GB, 10 * GB)
    assert (on_gpu["device"], on_gpu["device_name"]) == ("cuda", "RTX 3060")
    assert (on_gpu["memory_bytes"], on_gpu["memory_free_bytes"]) == (12 * GB, 12 * GB)


def test_memory_that_a_part_of_a_card_does_not_tell_is_null() -> None:
    part = replace(DRIVER, gpu=replace(GPU, memory_free_bytes=0))
    (here,) = document(examined(here=workers_box(driver=part)))["boxes"]

    assert (here["device"], here["memory_bytes"], here["memory_free_bytes"]) == ("cuda", None, None)


def test_a_worker_that_tells_nothing_of_its_box_is_shown_all_the_same() -> None:
    _, worker = document(examined(answered(0, box=None)))["boxes"]

    assert worker["python"] is None
    assert worker["memory_bytes"] == 11 * GB


def test_the_verdict_fails_for_a_fault_and_keeps_notes_apart() -> None:
    well, ill = document(examined(answered(0))), document(examined(answered(0), GONE))

    assert well["verdict"]["pass"] is True
    assert well["verdict"]["reasons"] == []
    assert ill["verdict"] == {
        "pass": False,
        "reasons": ["worker 10.0.0.3:50051 is gone"],
        "notes": well["verdict"]["notes"],
    }


def test_the_table_has_a_column_for_each_box_and_a_line_for_each_finding() -> None:
    lines = table(examined(answered(0), GONE))

    assert lines[0].split() == ["this", "box", *WORKERS]
    rows = {line[:23].strip(): line[23:].split() for line in lines}
    assert rows["protocol"] == [str(PROTOCOL), str(PROTOCOL), "?"]
    assert rows["memory for a worker"] == ["8.0", "GB", "11.0", "GB", "?"]
    assert rows["1.3 MB, one way"] == ["110", "MB/s", "?"]
    assert "! worker 10.0.0.3:50051 is gone" in lines
    assert lines[-1] == "verdict: FAIL"


def test_an_address_in_brackets_is_no_markup() -> None:
    lines = table(examined(replace(answered(0), worker="[::1]:50051"), here=gateways_box()))

    assert lines[0].split() == ["this", "box", "[::1]:50051"]
    assert lines[-1] == "verdict: all is well"
