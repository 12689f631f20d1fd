"""Commands that take `--model` take a model of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from edgeserve.cli import main
from tests.hugging_face.hub import Hub

NAME = "org/name"


def test_a_plan_shows_the_commit_that_it_is_for(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.publish(NAME, folder)
    assert main(["plan", "--model", NAME, "--workers", "2"]) == 0
    assert capsys.readouterr().out.startswith(f"{NAME}@{commit}, fp16: 4 layers over 2 workers")
    assert main(["plan", "--model", NAME, "--workers", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["revision"]) == (NAME, commit)


def test_a_model_that_is_not_to_be_had_ends_a_command(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["plan", "--model", "org/none"]) == 2
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["plan", "--model", NAME]) == 3
    told = capsys.readouterr().err.splitlines()
    assert [line.startswith("edgeserve: ") for line in told] == [True, True]


def test_the_doctor_misses_no_weights_that_are_yet_to_come(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.publish(NAME, folder)
    main(["doctor", "--model", NAME, "--json"])
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert not [reason for reason in verdict["reasons"] if "safetensors" in reason]
    main(["doctor", "--model", "org/none", "--json"])
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert [reason for reason in verdict["reasons"] if "neither a folder here" in reason]
