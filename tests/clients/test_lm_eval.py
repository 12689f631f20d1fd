"""lm-eval's log-likelihood tasks through three workers give the numbers of its own `hf` backend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeserve.config import Address
from edgeserve.families.folder import open_model
from tests.clients.conftest import Record
from tests.clients.environments import installed, read_clients
from tests.cluster.conftest import StartGateway
from tests.cluster.processes import START_S

pytestmark = [
    pytest.mark.clients,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # its environment is made first
]
CHECK = Path(__file__).with_name("lm_eval_check.py")
RUN_S = 600.0
PLAIN = ("batch_size=16", "add_bos_token=True")


LM_EVAL = read_clients()["lm_eval"]


@pytest.fixture(scope="module")
def python() -> Path:
    return installed(LM_EVAL) / "bin" / "python"


@pytest.mark.parametrize(
    "arguments",
    [
        PLAIN,
        ("batch_size=1", "num_concurrent=8", "add_bos_token=True"),
        ("batch_size=16", "add_bos_token=False", "tokenizer_backend=remote"),
        #   the gateway's own tokenizer, and no file of the model at the client's
    ],
    ids=" ".join,
)
def test_prompts_of_tokens_get_the_log_likelihoods_of_lm_evals_own_backend(
    arguments: tuple[str, ...],
    python: Path,
    workers: tuple[Address, ...],
    gateway: StartGateway,
    tmp_path: Path,
    *,
    record: Record,
) -> None:
    folder = open_model("demo").folder
    assert folder is not None
    url = gateway(workers, str(folder)).wait_until_announced(START_S)

    found = checked(python, folder, url, arguments, tmp_path)

    assert found["items"] == 50
    assert found["greedy"] > 0
    if arguments == PLAIN:
        told = f"{found['choices']} log-likelihoods, {found['largest_difference']:.0e} at most off"
        record(LM_EVAL, "50 multiple-choice items beside its hf backend", told)


def test_prompts_of_text_get_the_log_likelihoods_of_lm_evals_own_backend(
    python: Path, workers: tuple[Address, ...], gateway: StartGateway, tmp_path: Path
) -> None:
    """lm-eval writes special tokens out, and counts a text's tokens without those that a tokenizer
    puts before it: so with this one, which puts none.
    """
    demo, folder = open_model("demo").folder, tmp_path / "model"
    assert demo is not None
    shutil.copytree(demo, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
    url = gateway(workers, str(folder)).wait_until_announced(START_S)
    arguments = ("tokenized_requests=False", "batch_size=16", "add_bos_token=False")

    found = checked(python, folder, url, arguments, tmp_path)

    assert found["items"] == 50


def checked(
    python: Path, folder: Path, url: str, arguments: tuple[str, ...], home: Path
) -> dict[str, Any]:
    """Passes only if the numbers agree."""
    done = subprocess.run(
        [python, CHECK, folder, url, *arguments], capture_output=True, text=True,
        timeout=RUN_S, check=False, env={**os.environ, "HF_HOME": str(home / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document
