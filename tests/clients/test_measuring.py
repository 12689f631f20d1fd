"""Programs that measure servers, unmodified and in their newest versions, against three workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeserve.families.folder import open_model
from tests.clients.conftest import Record
from tests.clients.environments import execute, installed, read_clients

pytestmark = [
    pytest.mark.clients,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # its environment is made first
]
ROOT = Path(__file__).parents[2]
CLIENTS = read_clients()
PROMPTS = ("Once upon a time", "The little dog", "One day, Lily", "Tom and his mother") * 2


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm_measures(route: str, url: str, record: Record, tmp_path: Path) -> None:
    """It wants `stream_options.continuous_usage_stats`."""
    client, prompts, report = CLIENTS["guidellm"], tmp_path / "p.jsonl", tmp_path / "report.json"
    prompts.write_text("".join(json.dumps({"prompt": each}) + "\n" for each in PROMPTS))
    model = open_model("demo").folder
    command = [
        "run", "--backend", f"kind=openai_http,target={url},request_format={route}",
        "--profile", "kind=synchronous", "--constraint", f"kind=max_requests,count={len(PROMPTS)}",
        "--data", f"kind=json_file,path={prompts}",
        "--tokenizer", f"kind=huggingface_auto,model={model}",
        "--output", f"kind=json,path={report}", "--disable-console",
    ]  # fmt: skip
    execute(client, [str(installed(client) / "bin" / "guidellm"), *command])
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    made = benchmark["metrics"]["request_totals"]
    assert made == {"successful": 8, "errored": 0, "incomplete": 0, "total": 8}
    record(client, f"a benchmark of {route}", "8 of 8 requests")


@pytest.mark.parametrize("kind", ["chat", "completions"])
def test_aiperf_measures(kind: str, url: str, record: Record, tmp_path: Path) -> None:
    client = CLIENTS["aiperf"]
    command = [
        "profile", "-m", "demo", "--url", url, "--endpoint-type", kind, "--streaming",
        "--tokenizer", "edgeserve/demo",  # as of a hub, and found as a folder here
        "--concurrency", "2",
        "--request-count", "8", "--isl", "32", "--osl", "16",
        "--extra-inputs", "ignore_eos:true", "--extra-inputs", "min_tokens:16",
        "--ui", "none", "--artifact-dir", str(tmp_path),
    ]  # fmt: skip
    execute(client, [str(installed(client) / "bin" / "aiperf"), *command], cwd=ROOT)
    (report,) = tmp_path.rglob("profile_export_aiperf.json")
    told = json.loads(report.read_text())
    assert told["request_count"]["avg"] == 8
    assert "error_request_count" not in told
    record(client, f"a profile of {kind}", "8 of 8 requests")
