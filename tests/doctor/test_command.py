"""The command from start to end: alone on a box, and with real workers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeserve import cli
from edgeserve.config import Address
from edgeserve.families.folder import open_model
from tests.cluster.processes import (
    TOKEN,
    announced,
    engine_settings,
    exit_codes,
    joined,
    run_edgeserve,
    running_engine,
    start_worker,
)

NOBODY = Address("127.0.0.1", 1)
WELL, FAULTS, BAD_USAGE = 0, 1, 2


@pytest.fixture(autouse=True)
def _on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever card and driver the developer's box has."""
    monkeypatch.setenv("EDGESERVE_DEVICE", "cpu")


# -- one box


def alone(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, Any, str]:
    """Exit code, document, and what people see."""
    code = cli.main(["doctor", "--json", *flags])
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    return code, json.loads(line), err


def test_a_box_alone_is_well_and_needs_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    code, document, table = alone(capsys, "--model", "demo")

    assert (code, document["verdict"]["reasons"]) == (WELL, [])
    assert [each["box"] for each in document["boxes"]] == ["this box"]
    assert document["boxes"][0]["disk_free_bytes"] > 0
    assert "verdict: all is well" in table


def test_without_a_model_the_disk_is_that_of_the_cache(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGESERVE_CACHE", "/proc/cache")  # on which nothing is ever free
    _, document, _ = alone(capsys)
    assert document["boxes"][0]["disk_free_bytes"] == 0


def test_without_json_the_table_is_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == WELL
    assert capsys.readouterr().out.splitlines()[-1] == "verdict: all is well"


def test_what_is_ignored_of_a_models_files_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    demo = open_model("demo").folder
    assert demo is not None
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "my_note": "x"}))
    code, _, table = alone(capsys, "--model", str(tmp_path))

    assert code == WELL
    assert table.count('"my_note": "x" is not known for a llama model') == 1


def test_a_model_that_is_not_there_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    code, document, _ = alone(capsys, "--model", "nowhere/at/all")

    assert code == FAULTS
    assert (
        "'nowhere/at/all' is neither a folder nor a built-in" in document["verdict"]["reasons"][0]
    )


def test_a_workers_box_without_the_weights_is_a_fault_and_a_gateways_is_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    demo = open_model("demo").folder
    assert demo is not None
    (tmp_path / "config.json").write_bytes((demo / "config.json").read_bytes())
    code, document, _ = alone(capsys, "--model", str(tmp_path))
    _, with_worker, _ = alone(capsys, "--model", str(tmp_path), "--workers", str(NOBODY))

    assert code == FAULTS
    assert "no *.safetensors" in document["verdict"]["reasons"][0]
    assert [text for text in with_worker["verdict"]["reasons"] if "safetensors" in text] == []


def test_settings_are_read_as_the_others_read_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[worker]\nlisten = "10.0.0.2:50051"\n')

    code, document, _ = alone(capsys, "--config", str(config))

    assert code == FAULTS
    assert "10.0.0.2:50051" in document["verdict"]["reasons"][0]


def test_bad_usage_is_told_from_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--workers", "localhost"]) == BAD_USAGE
    assert "HOST:PORT" in capsys.readouterr().err


# -- a cluster


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[Address, ...]]:
    children = [start_worker() for _ in range(2)]
    try:
        yield tuple(announced(child) for child in children)
    finally:
        assert exit_codes(children) == [0, 0]


def doctor(*workers: Address, model: str = "demo", token: str = TOKEN) -> tuple[int, Any]:
    done = run_edgeserve(
        "doctor", "--workers", joined(workers), "--model", model, "--json",
        environment={"EDGESERVE_TOKEN": token},
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def not_of_links(document: Any) -> list[str]:
    """A test's machine may be too busy for a 13B model."""
    return [text for text in document["verdict"]["reasons"] if "13B" not in text]


@pytest.mark.cluster
@pytest.mark.slow
def test_two_workers_and_a_dead_address(workers: tuple[Address, ...]) -> None:
    start_s = time.monotonic()
    code, document = doctor(*workers, NOBODY)

    assert code == FAULTS
    assert time.monotonic() - start_s < 20
    (reason,) = not_of_links(document)
    assert f"worker {NOBODY} cannot be reached" in reason
    here, first, second, dead = document["boxes"]
    assert [each["box"] for each in (first, second, dead)] == [*map(str, workers), str(NOBODY)]
    for worker in (first, second):
        same = ("edgeserve", "protocol", "python", "torch", "driver")
        assert [worker[key] for key in same] == [here[key] for key in same]
        assert (worker["device"], worker["memory_bytes"]) == ("cpu", 10**9)
        assert worker["memory_free_bytes"] > 0
        assert worker["disk_free_bytes"] > 0
        assert 0 < worker["round_trip_ms"] < 10_000
        assert 0 < worker["idle_round_trip_ms"] < 10_000
        assert worker["bytes_per_s"] > 1e6
    assert dead["edgeserve"] is None


@pytest.mark.cluster
@pytest.mark.slow
def test_a_plan_is_made_as_the_gateway_would(workers: tuple[Address, ...]) -> None:
    _, fits = doctor(*workers)
    code, too_large = doctor(*workers, model="llama-2-13b")

    assert not_of_links(fits) == []
    assert any("the model fits as" in text for text in fits["verdict"]["notes"])
    assert code == FAULTS
    assert any("does not fit" in text for text in too_large["verdict"]["reasons"])


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize(("token", "words"), [("wrong", "missing or wrong"), ("", "has none")])
def test_a_token_that_is_not_the_workers_is_a_fault_and_is_not_shown(
    token: str, words: str, workers: tuple[Address, ...]
) -> None:
    code, document = doctor(workers[0], token=token)

    assert code == FAULTS
    assert words in document["verdict"]["reasons"][0]
    assert TOKEN not in json.dumps(document)


@pytest.mark.cluster
@pytest.mark.slow
async def test_a_running_gateway_is_seen_and_its_workers_are_missed_by_others(
    workers: tuple[Address, ...],
) -> None:
    def notes(document: Any) -> str:
        return " ".join(document["verdict"]["notes"])

    async with running_engine(engine_settings(workers[:1], "demo")):
        _, alone_held = await asyncio.to_thread(doctor, workers[0])
        code, partly_held = await asyncio.to_thread(doctor, *workers)
    _, free = await asyncio.to_thread(doctor, *workers)

    assert "a gateway serves with these workers now" in notes(alone_held)
    assert code == FAULTS
    (reason,) = not_of_links(partly_held)
    assert f"a newer gateway holds {workers[0]} and not the other workers" in reason
    assert not_of_links(free) == []
    assert "a gateway serves" not in notes(free)
