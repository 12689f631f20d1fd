"""Runs sections one after another, each in a process of its own and within its time.

An error that poisons a CUDA context, a hang or a crash ends one section and no other. What a
section found until then counts.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.setup import LEAST_S, SECTIONS, Section, Setup

ROOT = Path(__file__).resolve().parent.parent.parent
LOG_LINES = 6
KILLED_S = 5.0
"""A process whose driver hangs does not even die."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a section ended, and what it left."""

    status: str
    """'ok', or 'skipped', 'failed' or 'timed out' with the reason in `why`."""
    why: str = ""
    taken_s: float = 0.0
    rows: list[Row] = field(default_factory=list)


def run_sections(setup: Setup, out: Path, on_done: Callable[[str, Outcome], None]) -> None:
    """Every section, until the setup's time is up; `on_done` after each."""
    end_s = time.monotonic() + setup.budget_s
    for section in SECTIONS:
        limit_s = section.limit_s(setup)
        left_s = end_s - time.monotonic()
        if limit_s == 0:
            outcome = Outcome(status="skipped", why=f"not a part of {setup.name}")
        elif left_s < LEAST_S:
            outcome = Outcome(status="skipped", why=f"no time left of {setup.budget_s:.0f} s")
        else:
            outcome = run_section(section, setup, out, min(limit_s, left_s))
        on_done(section.name, outcome)


def run_section(section: Section, setup: Setup, out: Path, limit_s: float) -> Outcome:
    name = section.name.replace(" ", "_")
    rows_file, log_file = out / f"{name}.jsonl", out / f"{name}.log"
    rows_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check.section",
               setup.name, section.module, section.argument, str(rows_file)]  # fmt: skip
    start_s = time.monotonic()
    try:
        code = run_process(command, log_file, section_environment(setup), limit_s)
    finally:  # also when this run is told to end
        rows = read_rows(rows_file)
        end_workers(rows)
    taken_s = round(time.monotonic() - start_s, 1)
    if code == 0:
        return Outcome(status="ok", taken_s=taken_s, rows=rows)
    if code is None:
        why = f"stopped after {limit_s:.0f} s"
        return Outcome(status="timed out", why=why, taken_s=taken_s, rows=rows)
    why = f"exit code {code}: {last_lines(log_file)}"
    return Outcome(status="failed", why=why, taken_s=taken_s, rows=rows)


def section_environment(setup: Setup) -> Mapping[str, str]:
    interpreted = {"TRITON_INTERPRET": "1"} if setup.is_rehearsal else {}
    return {**os.environ, **interpreted, "PYTHONPATH": str(ROOT)}


def run_process(
    command: list[str], log_file: Path, environment: Mapping[str, str], limit_s: float
) -> int | None:
    """Its exit code; None if its time was up. Nothing that it started in its session lives on."""
    with log_file.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            cwd=ROOT, env=environment, start_new_session=True,
        )  # fmt: skip
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=KILLED_S)  # waits, and closes the pipe


def read_rows(rows_file: Path) -> list[Row]:
    """Without a last one that was cut off."""
    if not rows_file.exists():
        return []
    lines = rows_file.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def end_workers(rows: list[Row]) -> None:
    """Workers have sessions of their own. One that hangs would keep its memory from the others."""
    for row in rows:
        pid = row.get("worker_pid")
        with suppress(OSError):
            if pid and b"edgeserve" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def last_lines(log_file: Path) -> str:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return " / ".join(line.strip() for line in lines[-LOG_LINES:] if line.strip())


def as_document(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome)
