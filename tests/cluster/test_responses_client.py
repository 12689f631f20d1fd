"""OpenAI's own client asks for responses, unmodified, of a gateway process with real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway
from tests.cluster.processes import START_S

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

openai = pytest.importorskip("openai")
ASK: Any = {"model": "demo", "input": "Tell me of a cat.", "temperature": 0}


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    legs: Literal[4]


@pytest.fixture(scope="module")
def url(workers: tuple[Address, ...], module_gateway: StartGateway) -> str:
    return module_gateway(workers, "demo").wait_until_announced(START_S)


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_response_says_what_a_chat_says(client: Any) -> None:
    response = await client.responses.create(**ASK, max_output_tokens=24, instructions="Be kind.")
    chat = await client.chat.completions.create(
        model="demo", temperature=0, max_tokens=24,
        messages=[
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": ASK["input"]},
        ],
    )  # fmt: skip
    assert response.output_text
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == chat.usage.completion_tokens == 24
    assert (response.status, response.incomplete_details.reason) == (
        "incomplete", "max_output_tokens",
    )  # fmt: skip


async def test_a_stream_says_what_the_whole_answer_says(client: Any) -> None:
    asked = {**ASK, "max_output_tokens": 24}
    whole = await client.responses.create(**asked)
    async with client.responses.stream(**asked) as stream:
        events = [event async for event in stream]
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.output_text == whole.output_text
    assert deltas[-1].snapshot == whole.output_text
    again = [event async for event in await client.responses.create(**asked, stream=True)]
    assert [event.type for event in again] == [event.type for event in events]


async def test_an_answer_is_parsed_into_a_model(client: Any) -> None:
    response = await client.responses.parse(**ASK, max_output_tokens=40, text_format=Pet)
    assert response.status == "completed"
    assert response.output_parsed.legs == 4
    assert response.text.format.name == "Pet"
    async with client.responses.stream(**ASK, text_format=Pet) as stream:
        final = await stream.get_final_response()
    assert final.output_parsed == response.output_parsed


async def test_a_conversation_goes_on_without_a_store(client: Any) -> None:
    """All of it is sent again, and what was computed of it is found."""
    first = await client.responses.create(**ASK, max_output_tokens=40)
    items = [{"role": "user", "content": ASK["input"]}, *first.output]
    more = {"role": "user", "content": "And of a dog?"}
    second = await client.responses.create(
        **{**ASK, "input": [*items, more]}, max_output_tokens=8, store=False
    )
    details = second.usage.input_tokens_details
    assert second.output_text
    assert second.usage.input_tokens > first.usage.total_tokens
    assert details.cached_tokens >= first.usage.input_tokens // 16 * 16 > 0


async def test_logprobs_and_the_receipt_are_read(client: Any) -> None:
    response = await client.responses.create(
        **ASK, max_output_tokens=5, top_logprobs=2, include=["message.output_text.logprobs"],
        extra_body={"timing": True},
    )  # fmt: skip
    entries = response.output[0].content[0].logprobs
    assert len(entries) == 5
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 2 for entry in entries)
    assert len(response.model_extra["timing"]["per_token"]) == 5


async def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="none is stored here"):
        await client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError, match="none is stored here"):
        await client.responses.delete("resp_1")
    with pytest.raises(openai.UnprocessableEntityError, match="no response is kept"):
        await client.responses.create(**ASK, store=True)
    with pytest.raises(openai.UnprocessableEntityError, match="send the whole conversation"):
        await client.responses.create(**ASK, previous_response_id="resp_1")
    with pytest.raises(openai.UnprocessableEntityError, match='"web_search", but only functions'):
        await client.responses.create(**ASK, tools=[{"type": "web_search"}])
    with pytest.raises(openai.UnprocessableEntityError, match="max_output_tokens to at most"):
        await client.responses.create(**ASK, max_output_tokens=10**6)
