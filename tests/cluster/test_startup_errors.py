"""What cannot start says why in one line, with the right exit code, and soon."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgeserve.config import Address
from edgeserve.families.spec import Dtype
from edgeserve.wire.loop import run_on_loop
from edgeserve.wire.messages import Description, LoadOrder, LoadProgress
from edgeserve.wire.server import RunSession, WorkerServer
from edgeserve.wire.supply import Manifest, SupplyPart, SupplyReply
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import TOKEN, joined, line_with, run_edgeserve, running, start_worker

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

BAD_USAGE, COULD_NOT = 2, 3
NOBODY = "127.0.0.1:1"


@pytest.fixture
def model(talker: TinyModel, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return shutil.copytree(talker.folder, tmp_path / "model")


# -- the model's folder, as the gateway and its workers find it


def test_an_unknown_model_is_refused_with_a_suggestion() -> None:
    refused = gateway("--workers", NOBODY, "--model", "lama-2-13b")
    assert_says(refused, BAD_USAGE, "'lama-2-13b' is neither a folder", "did you mean llama-2-13b")


def test_weights_that_can_run_code_are_refused_before_anything_starts(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    refused = gateway("--workers", NOBODY, "--model", str(model))
    assert_says(refused, BAD_USAGE, str(model), "pytorch_model.bin", "safetensors")


def test_an_unknown_architecture_is_refused_by_name(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"architectures": ["MambaForCausalLM"], "model_type": "mamba"}
    (model / "config.json").write_text(json.dumps(config))
    assert_says(gateway("--workers", NOBODY, "--model", str(model)), BAD_USAGE, "amba")


def truncate(model: Path) -> None:
    weights = model / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 1000)


def _corrupt(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])


def _lose_a_shard(model: Path) -> None:
    index = {"weight_map": {"model.embed_tokens.weight": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def _lose_all(model: Path) -> None:
    (model / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ("model.safetensors", "1000 are missing")),
        (_corrupt, ("model.safetensors", "header")),
        (_lose_a_shard, ("model-00002-of-00002.safetensors",)),
        (_lose_all, ("no *.safetensors",)),
    ],
)
def test_damaged_weights_are_refused_and_said_to_be_whose(
    damage: Callable[[Path], None],
    words: tuple[str, ...],
    model: Path,
    workers: tuple[Address, ...],
) -> None:
    damage(model)
    refused = gateway("--workers", joined(workers), "--model", str(model))
    assert_says(refused, BAD_USAGE, str(model), *words)
    by_a_worker = any(f"worker {each}" in refused.stderr for each in workers)
    assert by_a_worker == (damage is _lose_all), "only without weights are the workers left to look"


def test_a_worker_that_refused_a_model_takes_the_next_one(
    model: Path, talker: TinyModel, workers: tuple[Address, ...]
) -> None:
    truncate(model)
    gateway("--workers", joined(workers), "--model", str(model))
    with running("gateway", "--workers", joined(workers), "--model", talker.folder,
                 "--listen", "127.0.0.1:0") as child:  # fmt: skip
        assert "serving at" in line_with(child, "edgeserve gateway")


# -- workers


def test_an_unreachable_worker_is_named_in_time(model: Path, workers: tuple[Address, ...]) -> None:
    start_s = time.monotonic()
    refused = gateway(
        "--workers", f"{workers[0]},{NOBODY}", "--model", str(model), "--connect-timeout", "2"
    )
    assert_says(refused, COULD_NOT, f"worker {NOBODY} cannot be reached")
    assert time.monotonic() - start_s < 20, "of the 60 s that it would wait unless told otherwise"


def test_a_name_that_nobody_knows_is_named_in_time(model: Path) -> None:
    where = ("--workers", "nobody.invalid:50051", "--model", str(model), "--connect-timeout", "2")
    assert_says(gateway(*where), COULD_NOT, "worker nobody.invalid:50051")


def test_what_listens_but_is_no_worker_is_named_in_time(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = f"127.0.0.1:{mute.getsockname()[1]}"
        refused = gateway("--workers", where, "--model", str(model), "--connect-timeout", "2")
    assert_says(refused, COULD_NOT, f"worker {where}")


def test_one_worker_under_two_names_is_refused_and_both_are_named(
    model: Path, workers: tuple[Address, ...]
) -> None:
    port = workers[0].port
    named = (f"127.0.0.1:{port}", f"localhost:{port}")
    refused = gateway("--workers", f"{named[0]},{workers[1]},{named[1]}", "--model", str(model))
    assert_says(refused, BAD_USAGE, f"{named[0]} and {named[1]} are two addresses of one worker")


def test_a_gateway_among_its_own_workers_is_refused_at_once(model: Path) -> None:
    itself = ("--workers", f"{NOBODY},localhost:8999", "--listen", "127.0.0.1:8999")
    refused = run_edgeserve("gateway", *itself, "--model", str(model))
    assert_says(refused, BAD_USAGE, "localhost:8999 is the address that this gateway listens on")


def test_a_web_server_among_the_workers_is_refused_at_once(model: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        where = f"127.0.0.1:{web.server_port}"
        refused = gateway("--workers", where, "--model", str(model))
        web.shutdown()
    assert_says(refused, COULD_NOT, f"what answers at {where} is no worker of edgeserve")


def test_a_wrong_token_is_refused_at_once(model: Path, workers: tuple[Address, ...]) -> None:
    refused = gateway("--workers", joined(workers), "--model", str(model), token="another")
    assert_says(refused, BAD_USAGE, "token is missing or wrong", "EDGESERVE_TOKEN")
    assert TOKEN not in refused.stderr
    assert "another" not in refused.stderr


def test_a_worker_of_another_version_is_refused_with_both_versions(model: Path) -> None:
    with fake_worker(package_version="99.0") as where:
        refused = gateway("--workers", str(where), "--model", str(model))
    assert_says(refused, COULD_NOT, f"worker {where}", "99.0", "install the same version")


def test_a_worker_of_another_protocol_is_refused_with_both_protocols(model: Path) -> None:
    with fake_worker(protocol=77, package_version="99.0") as where:
        refused = gateway("--workers", str(where), "--model", str(model))
    assert_says(refused, COULD_NOT, f"worker {where}", "protocol 77", "install the same version")


def test_a_worker_with_another_model_in_its_own_folder_is_refused(
    model: Path, tiny: Callable[[str], TinyModel], workers: tuple[Address, ...]
) -> None:
    own = start_worker(flags=("--model", tiny("qwen2").folder))
    try:
        where = own.wait_until_announced(60)
        refused = gateway("--workers", where, "--model", str(model))
    finally:
        own.stop()
    assert_says(refused, COULD_NOT, f"worker {where}", "give both the same folder")


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic(
    workers: tuple[Address, ...],
) -> None:
    refused = gateway("--workers", joined(workers), "--model", "llama-2-13b", dtype="fp32")
    assert_says(refused, COULD_NOT, "does not fit", "GB")


def test_more_workers_than_layers_are_refused(model: Path) -> None:
    with fake_worker() as a, fake_worker() as b, fake_worker() as c, fake_worker() as d, \
            fake_worker() as e:  # fmt: skip
        refused = gateway("--workers", joined((a, b, c, d, e)), "--model", str(model))
    assert_says(refused, BAD_USAGE, "5 workers", "4 layers")


def test_layers_that_are_not_the_models_are_refused(
    model: Path, workers: tuple[Address, ...]
) -> None:
    refused = gateway("--workers", joined(workers), "--model", str(model), "--layers", "1,2,2")
    assert_says(refused, BAD_USAGE, "--layers 1,2,2", "4 layers")


# -- settings


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gateway", "--model", "demo"), ("--workers is missing",)),
        (("gateway", "--workers", NOBODY), ("--model is missing",)),
        (("gateway", "--workers", "localhost", "--model", "x"), ("--workers", "HOST:PORT")),
        (("gateway", "--workers", f"{NOBODY},{NOBODY}", "--model", "x"), ("named twice",)),
        (("gateway", "--step-timeout", "nan"), ("--step-timeout", "seconds")),
        (("worker", "--memory", "lots"), ("--memory", "11GiB")),
        (("worker", "--threads", "0"), ("--threads", "above 0")),
        (("worker", "--listen", "0.0.0.0:0"), ("--listen 0.0.0.0:0", "EDGESERVE_TOKEN")),
        (("worker", "--config", "nowhere.toml"), ("nowhere.toml",)),
    ],
)
def test_a_bad_setting_is_named(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_says(run_edgeserve(*arguments), BAD_USAGE, *words)


def test_a_gateway_open_to_the_network_needs_a_key(model: Path) -> None:
    refused = run_edgeserve("gateway", "--workers", NOBODY, "--model", str(model),
                            "--listen", "0.0.0.0:0")  # fmt: skip
    assert_says(refused, BAD_USAGE, "--listen 0.0.0.0:0", "EDGESERVE_API_KEY")


@pytest.mark.parametrize("command", ["gateway", "worker"])
def test_an_unknown_key_in_the_file_is_named_with_a_suggestion(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "edgeserve.toml").write_text(f'[{command}]\nlisten_ = "127.0.0.1:0"\n')
    refused = run_edgeserve(command, cwd=tmp_path)
    assert_says(refused, BAD_USAGE, "edgeserve.toml", "unknown key 'listen_'", "'listen'")


def test_a_port_in_use_is_named(model: Path, workers: tuple[Address, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = gateway("--workers", joined(workers), "--model", str(model), listen=where)
        assert_says(refused, BAD_USAGE, f"--listen {where}", "in use")
        refused = run_edgeserve("worker", "--listen", where, "--device", "cpu")
        assert_says(refused, BAD_USAGE, f"--listen {where}", "using it")


def test_a_second_worker_on_a_port_is_refused(workers: tuple[Address, ...]) -> None:
    refused = run_edgeserve("worker", "--listen", str(workers[0]), "--device", "cpu")
    assert_says(refused, BAD_USAGE, f"--listen {workers[0]}", "using it")


# -- how


def gateway(
    *arguments: str, token: str = TOKEN, listen: str = "127.0.0.1:0", dtype: str = "fp32"
) -> subprocess.CompletedProcess[str]:
    return run_edgeserve(
        "gateway", *arguments, "--listen", listen, "--dtype", dtype,
        environment={"EDGESERVE_TOKEN": token},
    )  # fmt: skip


def assert_says(ended: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """One line for the person, and no traceback."""
    lines = [line for line in ended.stderr.splitlines() if line.startswith("edgeserve: ")]
    assert len(lines) == 1, ended.stderr
    for each in words:
        assert each in lines[0]
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == lines[0], "nothing after it"
    assert ended.returncode == exit_code


class _FakeHandler:
    """A worker that describes itself, and can do nothing else."""

    def __init__(self, **differences: int | str) -> None:
        self._differences = differences

    def describe(self) -> Description:
        return Description(
            device="cpu", device_name="fake", memory_bytes=10**9, reserve_bytes=0,
            memory_bytes_per_s=0.0, dtypes=(Dtype.FP32,), epoch=0, loaded=None,
            **self._differences,  # type: ignore[arg-type]  # named by the test
        )  # fmt: skip

    async def load(self, order: LoadOrder) -> AsyncGenerator[LoadProgress]:
        assert order.epoch < 0, "nothing may be loaded here"
        yield LoadProgress(bytes_done=0, bytes_total=0)

    def supply(
        self, manifest: Manifest, parts: AsyncIterator[SupplyPart]
    ) -> AsyncGenerator[SupplyReply]:
        raise AssertionError("nothing is supplied here")

    def open_session(
        self, epoch: int, reply: Callable[[bytes], None], announce: Callable[[float], None]
    ) -> RunSession:
        raise AssertionError("no frame may be sent here")


@contextmanager
def fake_worker(**differences: int | str) -> Iterator[Address]:
    """Served by this process, on a thread of its own."""
    started: list[Address] = []
    is_up, is_over = threading.Event(), threading.Event()

    async def serve() -> None:
        server = WorkerServer(_FakeHandler(**differences), TOKEN)
        started.append(await server.start(Address("127.0.0.1", 0)))
        is_up.set()
        while not is_over.is_set():
            await asyncio.sleep(0.02)
        await server.stop(0.1)

    thread = threading.Thread(target=lambda: run_on_loop(serve()), daemon=True)
    thread.start()
    assert is_up.wait(10)
    try:
        yield started[0]
    finally:
        is_over.set()
        thread.join(10)
