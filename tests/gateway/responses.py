"""A gateway with a fake pipeline, asked for responses; whatever it answers is held to the models of
OpenAI's own client, nothing missing and nothing of another type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import httpx
from openai.types import responses as sdk

from edgeserve.clock import ManualClock
from edgeserve.gateway.app_state import AppState
from edgeserve.pipeline.generation import Order
from edgeserve.testing import FakeEngine
from tests.gateway.test_openai_chat import AtHome
from tests.gateway.tool_templates import TAGGED_TEMPLATE

PATH = "/v1/responses"
ClientFor = Callable[[AppState], httpx.AsyncClient]
_EVENTS: dict[str, Any] = {
    get_args(each.model_fields["type"].annotation)[0]: each
    for each in get_args(get_args(sdk.ResponseStreamEvent)[0])
}


def saying(*texts: str) -> Callable[[Order], Sequence[int]]:
    """Each answer the next text, and its end."""
    left = list(texts)
    return lambda _: [*left.pop(0).encode(), 2]


def talking(state: AppState, *texts: str, template: str = TAGGED_TEMPLATE) -> AppState:
    """A model that says `texts`, one in each answer; or, without any, its prompt again."""
    engine = FakeEngine(ManualClock(100.0), saying(*texts)) if texts else state.engine
    facts = replace(state.model, context_tokens=4000)
    return replace(
        state, engine=engine, model=facts, chat_template=AtHome(template, {"bos_token": "<s>"})
    )


async def respond(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"input": "hello", **fields})
    assert answer.status_code == 200, answer.text
    return checked(answer.json())


async def stream(client: httpx.AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    """All events of a stream, each checked."""
    answer = await client.post(PATH, json={"input": "hello", "stream": True, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer.text)


def events_of(text: str) -> list[dict[str, Any]]:
    *blocks, end = text.split("\n\n")
    assert end == ""
    events = [_event(block) for block in blocks if not block.startswith(":")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def refusal(client: httpx.AsyncClient, **fields: Any) -> str:
    answer = await client.post(PATH, json={"input": "hello", **fields})
    assert answer.status_code == 422, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def checked(response: dict[str, Any]) -> dict[str, Any]:
    """Strictly: the client itself reads on over what is wrong."""
    sdk.Response.model_validate_json(json.dumps(response), strict=True)
    assert set(ECHOED) <= response.keys()
    return response


ECHOED = (
    "background", "completed_at", "created_at", "error", "id", "incomplete_details", "instructions",
    "max_output_tokens", "metadata", "model", "object", "output", "parallel_tool_calls",
    "previous_response_id", "reasoning", "service_tier", "status", "store", "temperature", "text",
    "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "usage", "user",
)  # fmt: skip


def _event(block: str) -> dict[str, Any]:
    named, data = block.split("\n")
    event: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert named == f"event: {event['type']}"
    _EVENTS[event["type"]].model_validate_json(data.removeprefix("data: "), strict=True)
    if "response" in event:
        checked(event["response"])
    return event
