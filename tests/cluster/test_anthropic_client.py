"""Anthropic's own client, unmodified, asks a gateway process with real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import anthropic
import httpx
import pytest
from pydantic import BaseModel

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway
from tests.cluster.processes import START_S

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

HELLO: Any = {"role": "user", "content": "Tell me of a cat."}
ASK: Any = {
    "model": "demo", "messages": [HELLO], "max_tokens": 24, "extra_body": {"temperature": 0},
}  # fmt: skip


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    legs: Literal[4]


@pytest.fixture(scope="module")
def url(workers: tuple[Address, ...], module_gateway: StartGateway) -> str:
    return module_gateway(workers, "demo").wait_until_announced(START_S)


@pytest.fixture
async def client(url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        yield client


async def test_a_message_says_what_a_chat_says(client: Any, url: str) -> None:
    message = await client.messages.create(**ASK, system="Be kind.")
    asked = {
        "temperature": 0, "max_tokens": 24,
        "messages": [{"role": "system", "content": "Be kind."}, HELLO],
    }  # fmt: skip
    async with httpx.AsyncClient(base_url=url) as plain:
        chat = (await plain.post("/v1/chat/completions", json=asked)).json()
    assert message.content[0].text == chat["choices"][0]["message"]["content"] != ""
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat["usage"]["prompt_tokens"]
    assert (usage.output_tokens, message.stop_reason) == (24, "max_tokens")
    counted = await client.messages.count_tokens(model="demo", messages=[HELLO], system="Be kind.")
    assert counted.input_tokens == chat["usage"]["prompt_tokens"]


async def test_a_stream_says_what_the_whole_answer_says(client: Any) -> None:
    whole = await client.messages.create(**ASK)
    async with client.messages.stream(**ASK) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert len(texts) > 5
    assert "".join(texts) == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


async def test_what_was_computed_of_a_conversation_is_found(client: Any) -> None:
    asked = {**ASK, "messages": [{"role": "user", "content": "Tell me of a dog. " * 8}]}
    first = await client.messages.create(**asked)
    said = [*asked["messages"], first.to_param(), HELLO]
    async with client.messages.stream(**{**ASK, "messages": said}) as stream:
        second = await stream.get_final_message()
    assert second.usage.cache_read_input_tokens >= 16
    both = second.usage.input_tokens + second.usage.cache_read_input_tokens
    counted = await client.messages.count_tokens(model="demo", messages=said)
    assert both == counted.input_tokens


async def test_an_answer_is_parsed_into_a_model(client: Any) -> None:
    answer = await client.messages.parse(**{**ASK, "max_tokens": 40}, output_format=Pet)
    assert answer.parsed_output.legs == 4


async def test_the_receipt_is_read(client: Any) -> None:
    answer = await client.messages.create(
        **{**ASK, "extra_body": {"timing": True, "temperature": 0}}
    )
    assert len(answer.model_extra["timing"]["per_token"]) == 24


async def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="ANTHROPIC_MODEL=demo"):
        await client.messages.create(**{**ASK, "model": "claude-opus-4-8"})
    with pytest.raises(anthropic.UnprocessableEntityError, match="max_tokens to at most"):
        await client.messages.create(**{**ASK, "max_tokens": 20000})
    picture = {"type": "image", "source": {"type": "url", "url": "x"}}
    shown = {**ASK, "messages": [{"role": "user", "content": [picture]}]}
    with pytest.raises(anthropic.UnprocessableEntityError, match='"image", but the model reads'):
        await client.messages.create(**shown)
