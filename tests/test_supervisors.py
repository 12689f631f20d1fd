"""What watches a worker starts it anew when it ends by itself: a lost GPU needs a new process."""

from __future__ import annotations

from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # comes without types

from edgeserve.errors import DeviceLost

ROOT = Path(__file__).parents[1]
COMPOSE_FILES = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy").glob("*.yml"))]
EVERY_END = {"always", "unless-stopped"}


def restarts_after(unit: RawConfigParser, exit_code: int) -> bool:
    """As systemd.service(5) has it."""
    service = unit["Service"]
    kept_down = service.get("RestartPreventExitStatus", "").split()
    return service.get("Restart", "no") == "always" and str(exit_code) not in kept_down


def unit(text: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string(text)
    return parser


@pytest.mark.parametrize("name", ["worker", "gateway"])
def test_systemd_starts_a_process_that_ended_by_itself_again(name: str) -> None:
    text = (ROOT / f"deploy/systemd/edgeserve-{name}.service").read_text()

    assert restarts_after(unit(text), DeviceLost.exit_code)
    assert float(unit(text)["Service"]["RestartSec"]) >= 1, "a broken card is not tried in a loop"


def test_a_cards_files_are_made_before_a_worker_that_may_not_make_them() -> None:
    """Without a display they are missing after a restart of the box, and a program that would make
    them needs rights that NoNewPrivileges keeps from it.
    """
    service = unit((ROOT / "deploy/systemd/edgeserve-worker.service").read_text())["Service"]
    flags, program = service["ExecStartPre"][:2], service["ExecStartPre"][2:]

    assert service["NoNewPrivileges"] == "yes"
    assert program == "/usr/bin/nvidia-modprobe -u -c=0"
    assert set(flags) == {"-", "+"}, "as root; and a box without it has a worker, too"


@pytest.mark.parametrize(
    "text",
    ["[Service]", "[Service]\nRestart=on-abort", "[Service]\nRestart=no",
     "[Service]\nRestart=always\nRestartPreventExitStatus=2 4"],
)  # fmt: skip
def test_a_unit_that_keeps_it_down_would_be_noticed(text: str) -> None:
    assert not restarts_after(unit(text), DeviceLost.exit_code)


def test_docker_starts_every_worker_and_the_gateway_again() -> None:
    services: dict[str, Any] = yaml.safe_load(COMPOSE_FILES[0].read_text())["services"]
    ours = {name: each for name, each in services.items() if "build" in each}

    assert {"gateway", "worker", "worker-2", "worker-3"} <= set(ours)
    assert {each.get("restart") for each in ours.values()} <= EVERY_END


@pytest.mark.parametrize("path", COMPOSE_FILES[1:], ids=lambda path: path.name)
def test_no_role_of_a_node_takes_that_back(path: Path) -> None:
    services: dict[str, Any] = yaml.safe_load(path.read_text())["services"]

    assert {each.get("restart", "always") for each in services.values()} <= EVERY_END
