"""What every test starts from: no settings of this machine, and no thread more than it needs."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

from edgeserve.box import installed_torch
from edgeserve.gpu import look_at_driver, why_not_usable

LONGEST_FIRST = ("clients", "docker", "cluster", "browser", "slow")
"""Markers, by how long a file with a test of that kind takes."""

for name in [each for each in os.environ if each.startswith("EDGESERVE_")]:
    del os.environ[name]  # a developer's own cluster must not change what a test sees

# Nor may what earlier tests left in the user's cache.
CACHE = tempfile.TemporaryDirectory(prefix="edgeserve-tests-")
os.environ["EDGESERVE_CACHE"] = CACHE.name

# Before anything imports torch or transformers. Two test processes share the cores, and threads
# that spin against one another make a test of milliseconds one of seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the reference models are random: nothing to fetch

# Hundreds of processes start here, and each would compile what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# What is imported to be collected lives on: nothing of it is garbage.
gc.disable()

# Triton reads this when it is imported, whoever does so first. Without a GPU that the kernels run
# on they are interpreted, on the CPU.
driver = look_at_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))
if not driver.is_there or driver.is_hidden or why_not_usable(driver, installed_torch()):
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-clients-page",
        action="store_true",
        help="write what the clients did into docs/clients.md (with -m clients and -n 0)",
    )


@pytest.hookimpl(trylast=True)  # the order is random by now, and stays so within a rank
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long go first: of two processes, none has much left when the other has
    nothing.
    """
    ranks: defaultdict[Path, int] = defaultdict(lambda: len(LONGEST_FIRST))
    for item in items:
        found = (at for at, name in enumerate(LONGEST_FIRST) if item.get_closest_marker(name))
        ranks[item.path] = min(ranks[item.path], next(found, len(LONGEST_FIRST)))
    items.sort(key=lambda item: ranks[item.path])


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking through all of it again and again, the collector would
    take a third of a run.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
