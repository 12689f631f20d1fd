"""One section in a process of its own, for the runner: `python -m benchmarks.gpu_check.section`.

Each row goes to the file at once, so that a section that is killed leaves what it had. It ends with
the runner: standard input is a pipe from there.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
from pathlib import Path

from benchmarks.gpu_check.setup import SETUPS


def main(setup_name: str, module: str, argument: str, rows_file: str) -> None:
    logging.basicConfig(level=logging.INFO)  # what a worker says while it loads
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    measure = importlib.import_module(f"benchmarks.gpu_check.{module}").measure
    with Path(rows_file).open("w", encoding="utf-8") as file:
        for row in measure(SETUPS[setup_name], argument):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(row, flush=True)


def _end_with_the_runner() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written there
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
