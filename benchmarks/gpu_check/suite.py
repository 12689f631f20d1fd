"""The tests that need a card: those of `tests/gpu` and `tests/kernels`, with pytest, by name."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.gpu_check.setup import Setup
from edgeserve.allowance import cores

Row = dict[str, Any]

PROCESSES_MAX = 6
"""Most of their time goes into compiling. Each has a context on the card."""
TESTS = ("tests/gpu", "tests/kernels", "--ignore", "tests/kernels/test_compile.py")
"""What is compiled for cards that are not here matters elsewhere."""


def measure(_setup: Setup, _argument: str) -> Iterator[Row]:
    processes = max(1, min(PROCESSES_MAX, cores()))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(processes), *TESTS,
                   f"--junitxml={report}"]  # fmt: skip
        code = subprocess.run(command, check=False).returncode
        yield {"exit_code": code} | (read_report(report) if report.exists() else {})


def read_report(report: Path) -> Row:
    """How many ran, and the names of those that did not pass."""
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314  # pytest wrote it
    bad = [
        each for each in cases if each.find("failure") is not None or each.find("error") is not None
    ]
    return {
        "tests": len(cases),
        "skipped": sum(each.find("skipped") is not None for each in cases),
        "failed": [f"{each.get('classname')}::{each.get('name')}" for each in bad],
    }
