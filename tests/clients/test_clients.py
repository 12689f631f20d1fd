"""Clients that people have, unmodified and in their newest versions, against three workers.

Each runs a program of `programs/` in an environment of its own, and tells in JSON what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeserve.families.folder import open_model
from tests.clients.conftest import Record
from tests.clients.environments import Client, installed, read_clients

pytestmark = [
    pytest.mark.clients,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # its environment is made first
]
ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
RUN_S = 180.0
QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
"""Else it asks the Internet for prices, again and again."""
CLIENTS = read_clients()
FACTS: dict[str, dict[str, Any]] = {
    "openai": {
        "chat": True, "stream with usage": True, "tool call": "get_weather(city)",
        "JSON schema": "Pet", "responses": True, "logprobs of a prompt": True,
    },
    "anthropic": {
        "message": True, "stream": True, "tool use": "get_weather(city), assistant",
        "count_tokens": True,
    },
    "huggingface_hub": {
        "text_generation": True, "stream with details": True, "chat_completion": True,
        "JSON schema": ["age"],
    },
    "text_generation": {"generate": True, "generate_stream": True, "chat": True},
    "litellm": {
        "completion": True, "stream": True, "responses": True, "anthropic's messages": True,
    },
    "langchain_openai": {
        "invoke": True, "stream": True, "bind_tools": "double(number)",
        "with_structured_output": "Pet", "use_responses_api": True,
    },
    "pydantic_ai": {
        "agent over chat completions": "get_weather(Lisbon), quoted",
        "agent over responses": "get_weather(Lisbon), quoted",
        "agent over messages": "get_weather(Lisbon), quoted",
    },
    "instructor": {"tools": "Pet", "JSON schema": "Pet"},
    "openai_js": {"chat": True, "stream": True, "responses, streamed": True},
    "ai_sdk": {
        "generateText (responses)": True, "generateText (chat)": True, "streamText": True,
        "tool call": "double",
    },
}  # fmt: skip
"""What each program tells where all is well: a job, and what came of it."""


@pytest.mark.parametrize("name", FACTS)
def test_a_client_does_what_it_is_used_for(name: str, url: str, record: Record) -> None:
    client = CLIENTS[name]
    told = run(client, _program(client), url)
    assert told == FACTS[name]
    record(client, ", ".join(FACTS[name]), "works")


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


def run(client: Client, command: list[str], url: str) -> Any:
    """What it tells at its end."""
    return json.loads(execute(client, [*command, url]).strip().splitlines()[-1])


def execute(client: Client, command: list[str], cwd: Path | None = None) -> str:
    """Its standard output, once it has ended well. It runs in its own folder, unless told
    otherwise.
    """
    folder = installed(client)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        command, cwd=cwd or folder, env={**kept, **QUIET},
        capture_output=True, text=True, timeout=RUN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr or done.stdout)[-4000:]
    return done.stdout


def _program(client: Client) -> list[str]:
    if client.registry == "pypi":
        return [str(client.folder / "bin" / "python"), str(PROGRAMS / f"use_{client.name}.py")]
    # Beside its packages: node looks for them from where the program is.
    there = installed(client) / f"use_{client.name}.mjs"
    there.write_text((PROGRAMS / there.name).read_text(encoding="utf-8"), encoding="utf-8")
    return ["node", str(there)]
