"""Is the CUDA path right, how fast is it, and what did we assume wrongly? `make gpu-check`.

Sections run one after another, each in a process of its own and within its time: under 8 minutes
on one card, with `--quick` under 3. Everything goes to a folder as it is found, so that a run that
is ended leaves what it had: a file of rows and a log for each section, and `gpu_check.json`, which
is also the last line of the output. Exit code 1 if a section failed or a target is missed, or if
there is no GPU.

`--rehearse` runs the same sections on a CPU, with small sizes and Triton's interpreter: its figures
mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.runner import Outcome, as_document, run_sections
from benchmarks.gpu_check.setup import FULL, QUICK, REHEARSAL, Setup
from benchmarks.gpu_check.verdicts import summary, targets

FOLDER = "gpu-check"
NO_GPU = "NO GPU: PyTorch sees no CUDA device here, so nothing was checked."
SEES_GPU_S = 60.0


def main() -> int:
    options = make_parser().parse_args()
    device = "cpu" if options.rehearse else gpu_name()
    if not device:
        print(NO_GPU, file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the section that runs, too
    setup = REHEARSAL if options.rehearse else QUICK if options.quick else FULL
    options.out.mkdir(parents=True, exist_ok=True)
    document = check(setup, device, options.out)
    print(summary(document))
    print(json.dumps(document))
    return 0 if document["passed"] else 1


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the most important, in 3 minutes")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small sizes")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or FOLDER),
        help=f"folder for what is found; default: the variable OUT, or {FOLDER}",
    )  # fmt: skip
    return parser


def gpu_name() -> str:
    """Of the first GPU; empty without one. Asked in another process: this one must hold nothing of
    the card.
    """
    program = "import torch; print(torch.cuda.get_device_name(0))"
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(
            command, check=False, timeout=SEES_GPU_S, capture_output=True, text=True
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def check(setup: Setup, device: str, out: Path) -> dict[str, Any]:
    """The whole document, which is written to `out` whenever a section has ended."""
    document: dict[str, Any] = {
        "rehearsal": setup.is_rehearsal, "setup": setup.name, "model": setup.model,
        "device": device, "sections": {}, "targets": [], "passed": False,
    }  # fmt: skip

    def done(name: str, outcome: Outcome) -> None:
        document["sections"][name] = as_document(outcome)
        judge(document)
        (out / "gpu_check.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
        print(f"{name}: {outcome.status}, {outcome.taken_s} s {outcome.why}", file=sys.stderr,
              flush=True)  # fmt: skip

    run_sections(setup, out, done)
    return document


def judge(document: dict[str, Any]) -> None:
    """A rehearsal is judged by whether its sections ran."""
    verdicts = targets(document)
    document["targets"] = [str(each) for each in verdicts]
    whole = all(each["status"] in ("ok", "skipped") for each in document["sections"].values())
    met = all(each.verdict != "MISS" for each in verdicts)
    document["passed"] = whole and (met or document["rehearsal"])


if __name__ == "__main__":
    raise SystemExit(main())
