"""`edgeserve up`: one command that starts a cluster, answers, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.conftest import TinyModel
from tests.cluster.processes import line_with, run_edgeserve, running, until
from tests.cluster.test_startup_errors import BAD_USAGE, COULD_NOT, assert_says, truncate

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]
ONE, TWO = ("--workers", "1"), ("--workers", "2")
"""Where it is not about their number: each takes more than a second of a core to start."""


@pytest.fixture
def model(talker: TinyModel, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(talker.folder, tmp_path / "model")


def test_up_answers_a_prompt_serves_and_ends_with_all_its_children(talker: TinyModel) -> None:
    with up("--model", talker.folder, "--prompt", "once upon a time") as child:
        assert "compute" in line_with(child, "tokens in", within_s=60), "the receipt's verdict"
        assert line_with(child, "prefill").split()[1:], "and its table"
        assert "http://127.0.0.1:" in line_with(child, "serving at")
        children = children_of(child)
        assert len(children) == 4
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
        until("all children have ended", lambda: not any(map(_lives, children)), within_s=10)


def test_up_prints_its_answer_as_one_document_and_nothing_else(talker: TinyModel) -> None:
    with up("--model", talker.folder, "--prompt", "once upon", "--json", *ONE) as child:
        document = json.loads(line_with(child, "{", within_s=60))
        assert document["prompt"] == "once upon"
        assert document["timing"]["total_ms"] > 0
        assert len(document["details"]["tokens"]) == document["timing"]["decode"]["tokens"] + 1
        child.send_signal(signal.SIGINT)
        assert child.wait(30) == 0
        assert child.stdout is not None
        assert child.stdout.read() == ""


def test_up_asks_with_a_key_of_the_file_and_leaves_what_variables_say(
    talker: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:sk-alice\n")
    monkeypatch.setenv("EDGESERVE_MEMORY", "777MB")
    monkeypatch.setenv("EDGESERVE_DRAIN_TIMEOUT", "1.5")
    asked = ("--prompt", "once upon", "--json", "--api-key-file", str(keys))
    with up("--model", talker.folder, *asked) as child:
        assert json.loads(line_with(child, "{", within_s=60))["prompt"] == "once upon"
        (gateway,) = _gateways(child)
        told = gateway.cmdline()
        assert told[told.index("--drain-timeout") + 1] == "1.5"
        workers = [each.cmdline() for each in children_of(child) if "worker" in each.cmdline()]
        assert len(workers) == 3
        assert not any("--memory" in each for each in workers), "which would go before the variable"


def test_up_ends_in_seconds_at_any_moment_of_its_start(talker: TinyModel) -> None:
    moments: dict[str, Callable[[subprocess.Popen[str]], bool]] = {
        "workers import": lambda child: len(children_of(child)) == 2,
        "the gateway starts": lambda child: len(_gateways(child)) == 1,
    }
    for moment, is_now in moments.items():
        with up("--model", talker.folder, *TWO) as child:
            until(moment, partial(is_now, child), within_s=30)
            children = children_of(child)
            child.send_signal(signal.SIGTERM)
            assert child.wait(12) == 0, moment
            assert not any(map(_lives, children)), moment


def test_up_ends_in_seconds_while_it_answers(talker: TinyModel) -> None:
    """A request that would take longer ends with an error that says why."""
    with up("--model", talker.folder, *ONE) as child:
        url = line_with(child, "serving at", within_s=60).split()[2].rstrip(";")
        parameters = {"max_new_tokens": 100_000, "ignore_eos": True}
        refused = httpx.post(f"{url}/generate", json={"inputs": "o", "parameters": parameters})
        parameters["max_new_tokens"] = refused.json()["context_tokens"] - 50
        body = {"inputs": "once", "parameters": parameters}
        with httpx.stream("POST", f"{url}/generate_stream", json=body, timeout=30) as stream:
            events = stream.iter_lines()
            assert "token" in next(events)
            child.send_signal(signal.SIGTERM)
            assert child.wait(12) == 0
            last = [line for line in events if line][-1]
        assert "shutting down" in last or "generated_text" in last


def test_up_that_is_killed_leaves_no_child_behind(talker: TinyModel) -> None:
    with up("--model", talker.folder) as child:
        line_with(child, "serving at", within_s=60)
        children = children_of(child)
        assert len(children) == 4
        child.kill()
        until("all children have ended", lambda: not any(map(_lives, children)), within_s=15)


def test_up_that_is_interrupted_while_it_starts_waits_for_nothing(talker: TinyModel) -> None:
    """Held up by a gateway that is frozen before it can serve, as by one that loads for minutes."""
    with up("--model", talker.folder, *ONE) as child:
        until("the gateway is started", lambda: len(_gateways(child)) == 1, within_s=30)
        children = children_of(child)
        (gateway,) = _gateways(child)
        gateway.suspend()
        child.send_signal(signal.SIGINT)
        time.sleep(1)  # the gateway's thaw must find it gone on
        gateway.resume()
        assert child.wait(30) == 0
        assert child.stdout is not None
        assert "serving at" not in child.stdout.read()
        until("all children have ended", lambda: not any(map(_lives, children)), within_s=10)


def test_a_worker_that_is_killed_while_it_loads_is_told_beside_the_gateways_error(
    talker: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    with up("--model", talker.folder, "--connect-timeout", "2", *TWO) as child:
        until("the gateway is started", lambda: len(_gateways(child)) == 1, within_s=30)
        (gateway,) = _gateways(child)
        gateway.suspend()
        next(each for each in children_of(child) if "worker" in each.cmdline()).kill()
        gateway.resume()
        assert child.wait(30) == COULD_NOT
    told = capfd.readouterr().err
    assert "was ended by SIGKILL, most likely out of memory (it was to take " in told
    assert "the gateway ended with exit code 3 at its start" in told


def test_up_ends_when_a_child_of_it_does(
    talker: TinyModel, capfd: pytest.CaptureFixture[str]
) -> None:
    with up("--model", talker.folder, *TWO) as child:
        line_with(child, "serving at", within_s=60)
        children = children_of(child)
        next(each for each in children if "worker" in each.cmdline()).kill()
        assert child.wait(30) == COULD_NOT
        assert "was ended by SIGKILL, most likely out of memory" in capfd.readouterr().err
        until("all children have ended", lambda: not any(map(_lives, children)), within_s=10)


def test_up_with_a_gateway_that_cannot_start_ends_with_its_exit_code(model: Path) -> None:
    truncate(model)
    refused = run_edgeserve("up", "--model", str(model), "--port", "0", "--device", "cpu", *ONE,
                            timeout_s=60)  # fmt: skip
    assert refused.returncode == BAD_USAGE
    assert "1000 are missing" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--workers", "99"), BAD_USAGE, ("99 workers", "leave out 95 workers")),
        (("--layers", "1,1,1"), BAD_USAGE, ("--layers 1,1,1", "the model has 4 layers")),
        (("--dtype", "fp8"), BAD_USAGE, ("--dtype: 'fp8' is none of auto, fp32",)),
        (("--device", "gpu"), BAD_USAGE, ("--device: 'gpu' is none of auto, cpu, cuda",)),
        (("--pace", "rtx-3061"), BAD_USAGE, ("--pace 'rtx-3061'", "rtx-3060")),
        (("--api-key-file", "/no/keys"), BAD_USAGE, ("--api-key-file /no/keys: cannot be read",)),
        (("--key-concurrency", "3"), BAD_USAGE, ("there is no key",)),
        (("--memory", "1MB"), COULD_NOT, ("does not fit",)),
        (
            ("--pace", "rtx-3060", "--workers", "1", "--model", "llama-2-13b"),
            COULD_NOT, ("does not fit", "has 12.5 GB"),
        ),
        (("--max-waiting", "none"), BAD_USAGE, ("--max-waiting: 'none'",)),
        (("--json",), BAD_USAGE, ("--json prints the answer to --prompt",)),
    ],
)  # fmt: skip
def test_up_says_what_is_wrong_once_and_before_anything_starts(
    flags: tuple[str, ...], code: int, words: tuple[str, ...], model: Path
) -> None:
    refused = run_edgeserve("up", "--model", str(model), "--device", "cpu", *flags, timeout_s=30)
    assert_says(refused, code, *words)
    assert "worker listening" not in refused.stderr
    assert "edgeserve.worker" not in refused.stderr, "no worker ran"
    assert refused.stderr.count(words[0]) == 1


def test_up_on_a_port_in_use_says_so_before_anything_starts(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = run_edgeserve("up", "--model", str(model), "--port", port, timeout_s=30)
    assert_says(refused, BAD_USAGE, f"--port {port}: it cannot be had", "another gateway")
    assert "edgeserve.worker" not in refused.stderr


def test_up_with_an_unknown_model_says_so_before_anything_starts() -> None:
    refused = run_edgeserve("up", "--model", "lama-2-13b", "--port", "0")
    assert_says(refused, BAD_USAGE, "did you mean llama-2-13b")
    assert "worker" not in refused.stderr


# -- how


@contextmanager
def up(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    flags = ("--port", "0", "--device", "cpu", "--dtype", "fp32")
    with running("up", *arguments, *flags) as process:
        yield process


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _gateways(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """A child that has only been forked still has its parent's command line."""
    return [each for each in children_of(process) if "gateway" in each.cmdline()]


def _lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
