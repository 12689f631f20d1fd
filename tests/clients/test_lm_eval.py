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
LM_EVAL = read_clients()["lm_eval"]
CHECKS = {
    "plain": {"batch_size": "16", "add_bos_token": "True"},
    "several at once": {"batch_size": "1", "num_concurrent": "8", "add_bos_token": "True"},
    "the gateway's tokenizer": {
        "batch_size": "16", "add_bos_token": "False", "tokenizer_backend": "remote",
    },  # and no file of the model at the client's
    "texts": {"batch_size": "16", "add_bos_token": "False", "tokenized_requests": "False"},
}  # fmt: skip
"""lm-eval's arguments."""


@pytest.fixture(scope="module")
def found(
    url: str,
    workers: tuple[Address, ...],
    module_gateway: StartGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """By check; all from one process, which takes longer to import lm-eval than to ask."""
    python = installed(LM_EVAL) / "bin" / "python"
    home = tmp_path_factory.mktemp("lm_eval")
    folder, without_bos = open_model("demo").folder, home / "model"
    assert folder is not None
    copy_without_bos(folder, without_bos)
    of_texts = module_gateway(workers, str(without_bos)).wait_until_announced(START_S)
    asked = [
        {"folder": str(without_bos), "url": of_texts, "arguments": arguments}
        if name == "texts"
        else {"folder": str(folder), "url": url, "arguments": arguments}
        for name, arguments in CHECKS.items()
    ]
    done = subprocess.run(
        [python, CHECK, json.dumps(asked)], capture_output=True, text=True, timeout=RUN_S,
        check=False, env={**os.environ, "HF_HOME": str(home / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return dict(zip(CHECKS, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.parametrize("name", CHECKS)
def test_prompts_get_the_log_likelihoods_of_lm_evals_own_backend(
    name: str, found: dict[str, dict[str, Any]], record: Record
) -> None:
    told = found[name]

    assert told["agree"], told
    assert told["items"] == 50
    assert told["greedy"] > 0
    if name == "plain":
        result = f"{told['choices']} log-likelihoods, {told['largest_difference']:.0e} at most off"
        record(LM_EVAL, "50 multiple-choice items beside its hf backend", result)


def copy_without_bos(folder: Path, to: Path) -> None:
    """lm-eval writes special tokens out, and counts a text's tokens without those that a tokenizer
    puts before it: so texts are asked of a model whose tokenizer puts none.
    """
    shutil.copytree(folder, to)
    path = to / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
