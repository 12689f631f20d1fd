"""Keys, limits, the log and a trace of a gateway process, as its operator sets them up."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway
from tests.cluster.processes import START_S

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]
BODY = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 5, "ignore_eos": True}}


class Collector(BaseHTTPRequestHandler):
    """Keeps what it is sent in its server's `bodies`."""

    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """The requests are what the test looks at."""


def test_keys_limits_log_and_trace_of_a_gateway_process(
    workers: tuple[Address, ...],
    gateway: StartGateway,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice:sesame tokens-per-minute=20\nbob:open\n")
    Collector.bodies = []
    collector = HTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=collector.serve_forever, daemon=True).start()
    flags = ["--api-key-file", str(keys), "--log-format", "json", "--key-concurrency", "2"]
    flags += ["--otlp-endpoint", f"http://127.0.0.1:{collector.server_port}"]
    child = gateway(workers, "demo", *flags)
    url = child.wait_until_announced(START_S)
    asked = ("sesame", "sesame", "open", "wrong")
    statuses = [_ask(url, key, f"request-{i}") for i, key in enumerate(asked)]
    assert child.stop() == 0
    collector.shutdown()
    collector.server_close()
    assert statuses == [200, 429, 200, 401]

    names = [span.name for body in Collector.bodies for span in _spans(body)]
    assert names.count("POST /generate") == 3
    assert [names.count(f"stage {stage}") for stage in range(3)] == [2, 2, 2]
    log = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line[:1] == "{"]
    told = [
        (line["request_id"], line.get("tenant"), line["status"], line.get("output_tokens"))
        for line in log
        if line["event"] == "request"
    ]
    assert told == [
        ("request-0", "alice", 200, 5),
        ("request-1", "alice", 429, None),
        ("request-2", "bob", 200, 5),
        ("request-3", None, 401, None),
    ]
    assert "sesame" not in json.dumps(log)
    assert any("everybody on this box can read the keys" in line["event"] for line in log)


def _ask(url: str, key: str, request_id: str) -> int:
    headers = {"authorization": f"Bearer {key}", "x-request-id": request_id}
    answer = httpx.post(f"{url}/generate", json=BODY, headers=headers, timeout=30, trust_env=False)
    assert answer.headers["x-request-id"] == request_id
    return answer.status_code


def _spans(body: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        span
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
