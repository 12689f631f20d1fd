"""What `edgeserve up` gives its workers of this machine."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from edgeserve.allowance import MemoryLimit, MemoryRoom
from edgeserve.config import WorkerSettings, read_settings
from edgeserve.launch import up
from edgeserve.launch.answer import first_answer
from edgeserve.launch.up import worker_share


def test_workers_share_this_machine_s_memory() -> None:
    alone, shared = (int(worker_share(n, WorkerSettings(device="cpu"))["memory"]) for n in (1, 4))

    assert shared < alone / 2  # a quarter, of what is free a moment later


def test_workers_share_their_containers_memory_and_not_the_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = MemoryLimit(name="memory.max", limit_bytes=1500, used_bytes=300)
    room = MemoryRoom(machine_bytes=10**10, limits=(most,))
    monkeypatch.setattr(up, "memory_room", lambda: room)
    assert worker_share(3, WorkerSettings(device="cpu")) == {"memory": str(int(0.7 * 400))}


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_paced_worker_has_its_card_s_memory_and_not_a_share_of_this_machine_s(
    device: str,
) -> None:
    assert worker_share(3, WorkerSettings(pace="rtx-3060", device=device)) == {}


def test_memory_that_was_asked_for_wherever_it_stands_is_not_replaced_by_a_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EDGESERVE_MEMORY", "3GB")
    asked = read_settings(WorkerSettings, "worker", {"device": "cpu"})
    assert worker_share(3, asked) == {}


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
