"""A gateway with a fake pipeline, asked for messages; whatever it answers is held to the models of
Anthropic's own client, nothing missing and nothing of another type.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
from anthropic import types as sdk
from anthropic.types.shared import ErrorResponse

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO: Any = {"role": "user", "content": "hello"}
ASK: dict[str, Any] = {"messages": [HELLO], "max_tokens": 500}
TOOLS: list[Any] = [
    {"name": name, "description": "Of a place.", "input_schema": {"type": "object"}}
    for name in ("sun", "sea")
]
ROME = {"city": "Rome \u20ac"}
OSLO = {"city": "Oslo"}
CALLS = "\n".join(
    f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(city)}}}\n</tool_call>'
    for name, city in (("sun", ROME), ("sea", OSLO))
)
_EVENTS: dict[str, Any] = {
    "message_start": sdk.RawMessageStartEvent,
    "content_block_start": sdk.RawContentBlockStartEvent,
    "content_block_delta": sdk.RawContentBlockDeltaEvent,
    "content_block_stop": sdk.RawContentBlockStopEvent,
    "message_delta": sdk.RawMessageDeltaEvent,
    "message_stop": sdk.RawMessageStopEvent,
    "error": ErrorResponse,
}
"""The client has no model of a ping."""


async def message(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={**ASK, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["stop_reason"] is not None
    return checked(answer.json())


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """All events of a stream but pings, each checked."""
    answer = await client.post(PATH, json={**ASK, "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def events_of(text: str) -> list[dict[str, Any]]:
    *blocks, end = text.split("\n\n")
    assert end == ""
    events = [_event(block) for block in blocks]
    return [event for event in events if event["type"] != "ping"]


def checked(document: dict[str, Any]) -> dict[str, Any]:
    """Strictly: the client itself reads on over what is wrong."""
    sdk.Message.model_validate_json(json.dumps(document), strict=True)
    assert set(TOLD) <= document.keys()
    assert set(COUNTED) == document["usage"].keys()
    return document


async def refusal(client: httpx.AsyncClient, status: int = 422, **fields: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={**ASK, **fields})
    assert answer.status_code == status, answer.text
    return error_of(answer)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Its shape is checked; what is in it comes back."""
    ErrorResponse.model_validate_json(answer.text, strict=True)
    document = answer.json()
    assert document["request_id"] == answer.headers["request-id"]
    error: dict[str, Any] = document["error"]
    return error


TOLD = (
    "content", "id", "model", "role", "stop_reason", "stop_sequence", "type", "usage",
)  # fmt: skip
COUNTED = (
    "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens",
)  # fmt: skip


def _event(block: str) -> dict[str, Any]:
    named, data = block.split("\n")
    text = data.removeprefix("data: ")
    event: dict[str, Any] = json.loads(text)
    assert named == f"event: {event['type']}"
    if event["type"] != "ping":
        _EVENTS[event["type"]].model_validate_json(text, strict=True)
    if "message" in event:
        checked(event["message"])
    return event
