"""Clients that people have, unmodified and in their newest versions, against three workers.

Each runs a program of `programs/` in an environment of its own, and tells in JSON what came of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import Record
from tests.clients.environments import Client, execute, installed, read_clients

pytestmark = [
    pytest.mark.clients,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(900),  # its environment is made first
]
PROGRAMS = Path(__file__).parent / "programs"
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


def run(client: Client, command: list[str], url: str) -> Any:
    """What it tells at its end."""
    return json.loads(execute(client, [*command, url]).strip().splitlines()[-1])


def _program(client: Client) -> list[str]:
    if client.registry == "pypi":
        return [str(client.folder / "bin" / "python"), str(PROGRAMS / f"use_{client.name}.py")]
    # Beside its packages: node looks for them from where the program is.
    there = installed(client) / f"use_{client.name}.mjs"
    there.write_text((PROGRAMS / there.name).read_text(encoding="utf-8"), encoding="utf-8")
    return ["node", str(there)]
