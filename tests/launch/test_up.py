"""What `edgeserve up` gives its workers of this machine."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from edgeserve.allowance import MemoryLimit, MemoryRoom
from edgeserve.config import GatewaySettings, WorkerSettings, read_settings
from edgeserve.errors import BadSettings, DoesNotFit
from edgeserve.families.folder import open_model
from edgeserve.gpu import NONE, Gpu, NvidiaDriver, Torch
from edgeserve.launch import up
from edgeserve.launch.answer import first_answer
from edgeserve.launch.check import WorkersHere, check_device, check_fit
from edgeserve.launch.up import worker_share

ON_CPU = WorkerSettings(device="cpu")
CARD = NvidiaDriver(version="580.95.05")
CU130 = Torch(version="2.13.0+cu130", cuda="13.0")
CPU_BUILD = Torch(version="2.13.0+cpu", cuda=None)


def test_workers_share_this_machine_s_memory() -> None:
    alone, shared = (int(worker_share(n, ON_CPU, CARD)["memory"]) for n in (1, 4))

    assert shared < alone / 2  # a quarter, of what is free a moment later


def test_workers_share_their_containers_memory_and_not_the_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = MemoryLimit(name="memory.max", limit_bytes=1500, used_bytes=300)
    room = MemoryRoom(machine_bytes=10**10, limits=(most,))
    monkeypatch.setattr(up, "memory_room", lambda: room)
    assert worker_share(3, ON_CPU, CARD) == {"memory": str(int(0.7 * 400))}


def test_workers_on_one_gpu_share_what_is_free_of_it() -> None:
    """Each would count on all of it, and the second would not find room for its stage."""
    gpu = Gpu(name="RTX 3060", driver_version="580.95.05", memory_free_bytes=12 * 10**9)
    known = replace(CARD, gpu=gpu)

    assert worker_share(3, WorkerSettings(), known) == {"memory": "3800000000"}
    assert worker_share(1, WorkerSettings(), known) == {}, "it asks the card itself"
    assert worker_share(3, WorkerSettings(memory=10**9), known) == {}
    assert worker_share(3, WorkerSettings(pace="rtx-3060"), known) == {}
    unknown = replace(CARD, gpu=replace(gpu, memory_free_bytes=0))  # a part of a card
    assert worker_share(3, WorkerSettings(), unknown) == {}


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_paced_worker_has_its_card_s_memory_and_not_a_share_of_this_machine_s(
    device: str,
) -> None:
    assert worker_share(3, WorkerSettings(pace="rtx-3060", device=device), NvidiaDriver()) == {}


def test_memory_that_was_asked_for_wherever_it_stands_is_not_replaced_by_a_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGESERVE_MEMORY", "3GB")
    asked = read_settings(WorkerSettings, "worker", {"device": "cpu"})
    assert worker_share(3, asked, NvidiaDriver()) == {}


@pytest.mark.parametrize(
    ("settings", "driver", "has_share"),
    [
        (WorkerSettings(), NvidiaDriver(), True),
        (WorkerSettings(), CARD, False),  # the card is asked
        (ON_CPU, CARD, True),
        (WorkerSettings(), replace(CARD, is_hidden=True), True),
        (WorkerSettings(), NvidiaDriver(said="NVML failed"), True),
    ],
)
def test_whoever_computes_on_the_cpu_has_a_share_of_its_memory(
    settings: WorkerSettings, driver: NvidiaDriver, has_share: bool
) -> None:
    assert bool(worker_share(3, settings, driver)) == has_share


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("driver", "torch", "words"),
    [
        (CARD, CPU_BUILD, "a build without CUDA"),
        (NvidiaDriver(version="550.54.14"), CU130, "driver 580 or newer"),
    ],
)
def test_a_gpu_that_no_worker_could_use_is_told_before_any_starts(
    device: str, driver: NvidiaDriver, torch: Torch, words: str
) -> None:
    with pytest.raises(BadSettings, match=words):
        check_device(WorkerSettings(device=device), driver, torch)
    check_device(ON_CPU, driver, torch)
    check_device(WorkerSettings(device=device, pace="rtx-3060"), driver, torch)


def test_without_pytorch_no_worker_is_started() -> None:
    with pytest.raises(BadSettings, match="PyTorch is not installed"):
        check_device(ON_CPU, NvidiaDriver(), Torch(version=NONE, cuda=None))


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (NvidiaDriver(), "there is no driver"),
        (NvidiaDriver(said="No devices were found"), "No devices were found"),
        (replace(CARD, is_hidden=True), "CUDA_VISIBLE_DEVICES hides all"),
    ],
)
def test_a_gpu_that_is_asked_for_and_not_there_is_told_before_any_starts(
    driver: NvidiaDriver, words: str
) -> None:
    with pytest.raises(BadSettings, match=words):
        check_device(WorkerSettings(device="cuda"), driver, CU130)
    check_device(WorkerSettings(), driver, CU130)


@pytest.mark.parametrize(
    ("settings", "memory_gb", "fits"),
    [
        (ON_CPU, 9.4, True),
        (WorkerSettings(), 9.4, False),  # a context and the longest frame, where 300 MB do for CPUs
        (WorkerSettings(), 9.7, True),
        (WorkerSettings(pace="rtx-3060"), 9.4, False),
        (WorkerSettings(pace="rtx-3060"), 9.7, True),
    ],
)
def test_what_the_gateway_would_refuse_for_lack_of_memory_is_refused_before_anything_starts(
    settings: WorkerSettings, memory_gb: float, fits: bool
) -> None:
    source = open_model("llama-2-13b")
    workers = WorkersHere.of(3, int(memory_gb * 1e9), settings, CARD)
    expected = nullcontext() if fits else pytest.raises(DoesNotFit)

    with expected:
        check_fit(source, GatewaySettings(), workers)


def test_a_longer_chunk_of_prompts_needs_more_of_a_card() -> None:
    source = open_model("llama-2-13b")
    workers = WorkersHere.of(3, int(9.7e9), WorkerSettings(), CARD)

    check_fit(source, GatewaySettings(), workers)
    with pytest.raises(DoesNotFit):
        check_fit(source, GatewaySettings(prefill_chunk=2048), workers)


def test_a_first_answer_is_not_asked_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Gateway(("127.0.0.1", 0), Answers) as gateway:
        serving = threading.Thread(target=gateway.handle_request)
        serving.start()
        answer = first_answer(f"http://127.0.0.1:{gateway.server_port}", "once", "sk-1")
        serving.join(5)
    assert answer == {"prompt": "once", "generated_text": " upon"}
    assert gateway.keys == ["Bearer sk-1"]


class Gateway(HTTPServer):
    timeout = 5

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.keys: list[str | None] = []


class Answers(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        self.server.keys.append(self.headers["authorization"])
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"generated_text": " upon"}')

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
