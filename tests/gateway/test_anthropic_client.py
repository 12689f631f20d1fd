"""Anthropic's own client, unmodified, asks a gateway with a fake pipeline, over a connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from edgeserve.gateway.app_state import AppState
from tests.gateway.messages import CALLS, HELLO, OSLO, ROME, TOOLS
from tests.gateway.responses import talking

Serving = Callable[..., AbstractAsyncContextManager[str]]


class Pet(BaseModel):
    legs: int


@pytest.fixture
def sdk(
    state: AppState, serving: Serving
) -> Callable[..., AbstractAsyncContextManager[anthropic.AsyncAnthropic]]:
    """Of a model that says texts, one in each answer."""

    def told(*texts: str) -> AbstractAsyncContextManager[anthropic.AsyncAnthropic]:
        return _asking(serving(talking(state, *texts)))

    return told


@asynccontextmanager
async def _asking(
    served: AbstractAsyncContextManager[str],
) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        served as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client


async def test_the_client_calls_a_tool_and_goes_on(sdk: Any) -> None:
    async with sdk("Look: " + CALLS, "Warm and wet.") as client:
        asked = {"model": "fake", "max_tokens": 500, "tools": TOOLS}
        async with client.messages.stream(messages=[HELLO], **asked) as events:
            first = await events.get_final_message()
        calls = [block for block in first.content if block.type == "tool_use"]
        assert first.stop_reason == "tool_use"
        assert [call.input for call in calls] == [ROME, OSLO]
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "warm"} for call in calls
        ]
        said = [HELLO, first.to_param(), {"role": "user", "content": results}]
        second = await client.messages.create(messages=said, **asked)
        assert second.content[0].text == "Warm and wet."
        counted = await client.messages.count_tokens(messages=said, model="fake", tools=TOOLS)
        assert counted.input_tokens == second.usage.input_tokens


async def test_the_client_parses_an_answer_into_a_model(sdk: Any) -> None:
    async with sdk('{"legs":4}') as client:
        answer = await client.messages.parse(
            messages=[HELLO], model="fake", max_tokens=50, output_format=Pet
        )
        assert answer.parsed_output == Pet(legs=4)


async def test_the_client_reads_text_as_it_comes(sdk: Any) -> None:
    async with sdk("Hi \u20ac.", "Hi") as client:
        asked = {"messages": [HELLO], "model": "fake", "max_tokens": 50}
        async with client.messages.stream(**asked) as events:
            texts = [text async for text in events.text_stream]
        assert "".join(texts) == "Hi \u20ac."
        beta = await client.beta.messages.create(**asked, betas=["context-management-2025-06-27"])
        assert beta.content[0].text == "Hi"


async def test_errors_are_the_clients_own(sdk: Any) -> None:
    async with sdk("x") as client:
        asked = {"messages": [HELLO], "max_tokens": 50}
        with pytest.raises(anthropic.NotFoundError, match="ANTHROPIC_MODEL=fake") as lost:
            await client.messages.create(**asked, model="claude-opus-4-8")
        assert lost.value.type == "not_found_error"
        assert lost.value.request_id
        with pytest.raises(anthropic.UnprocessableEntityError, match="web_search_20250305"):
            await client.messages.create(
                **asked, model="fake", tools=[{"type": "web_search_20250305", "name": "web_search"}]
            )
