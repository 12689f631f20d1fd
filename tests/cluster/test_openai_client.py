"""OpenAI's own client, and Hugging Face's, unmodified, on a gateway process with real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway
from tests.cluster.processes import START_S

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

openai = pytest.importorskip("openai")
ASK: Any = {"model": "demo", "messages": [{"role": "user", "content": "Tell me of a cat."}]}
CACHED: Any = {"prompt_tokens_details": None}  # the second of two equal prompts has kept pages
LONG = "Once upon a time there was a cat who lived in a house by the sea. " * 4


@pytest.fixture(scope="module")
def url(workers: tuple[Address, ...], module_gateway: StartGateway) -> str:
    return module_gateway(workers, "demo").wait_until_announced(START_S)


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_the_model_is_listed(client: Any) -> None:
    assert [model.id async for model in client.models.list()] == ["demo"]


async def test_a_stream_says_what_the_whole_answer_says(client: Any) -> None:
    wanted = {"temperature": 0, "max_tokens": 24}
    whole = await client.chat.completions.create(**ASK, **wanted)
    stream = await client.chat.completions.create(
        **ASK, **wanted, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert whole.choices[0].message.content
    assert "".join(c.choices[0].delta.content for c in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert last.choices == []
    assert {**last.usage.to_dict(), **CACHED} == {**whole.usage.to_dict(), **CACHED}
    assert whole.usage.completion_tokens == len(chunks)


async def test_four_answers_differ_and_come_again_with_the_same_seed(client: Any) -> None:
    asked = {"temperature": 1.0, "seed": 7, "max_tokens": 16, "n": 4}
    first, again = [await client.chat.completions.create(**ASK, **asked) for _ in range(2)]
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    alone = await client.chat.completions.create(**ASK, **{**asked, "seed": 9, "n": 1})
    assert alone.choices[0].message.content == texts[2]


async def test_several_answers_share_the_pages_of_their_prompt(client: Any, url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as bare:
        before = (await bare.get(url + "/v1/cluster")).json()
        answer = await client.completions.create(model="demo", prompt=LONG, n=4, max_tokens=4)
        after = (await bare.get(url + "/v1/cluster")).json()
    page = after["pages"]["page_tokens"]
    shareable = (answer.usage.prompt_tokens - 1) // page * page
    assert shareable >= 2 * page
    assert after["cached_tokens"] - before["cached_tokens"] == 3 * shareable


async def test_logprobs_are_read(client: Any) -> None:
    answer = await client.chat.completions.create(
        **ASK, temperature=0, max_tokens=5, logprobs=True, extra_body={"timing": True}
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 5
    assert all(entry.logprob <= 0 and bytes(entry.bytes) for entry in entries)
    assert len(answer.model_extra["timing"]["per_token"]) == 5


async def test_a_completion_echoes_streams_and_stops(client: Any) -> None:
    stream = await client.completions.create(
        model="demo", prompt="Once upon", max_tokens=20, temperature=0, echo=True, stream=True
    )
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text.startswith("Once upon")
    stop = text[len("Once upon") :].split()[2]
    stopped = await client.completions.create(
        model="demo", prompt="Once upon", max_tokens=20, temperature=0, stop=stop
    )
    assert stop not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"


async def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(**{**ASK, "model": "gpt-4"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    tools = [{"type": "function", "function": {"name": "f"}}]
    g: Any = {"type": "function", "function": {"name": "g"}}
    with pytest.raises(openai.UnprocessableEntityError, match='known are "f"'):
        await client.chat.completions.create(**ASK, tools=tools, tool_choice=g)
    with pytest.raises(openai.UnprocessableEntityError, match="at most"):
        await client.completions.create(model="demo", prompt="x", max_tokens=10**6)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tests keep it off the network otherwise; this machine is not what is meant."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return hub


@pytest.mark.parametrize("path", ["", "/generate_stream"])
def test_hugging_faces_client_streams_text(path: str, hub: Any, url: str) -> None:
    client = hub.InferenceClient(model=url + path)  # the stream ends with it
    pieces = list(
        client.text_generation("Once upon a time", max_new_tokens=12, stream=True, details=True)
    )
    assert len(pieces) == 12
    assert "".join(piece.token.text for piece in pieces) == pieces[-1].generated_text
    assert pieces[-1].details.generated_tokens == 12


def test_hugging_faces_client_waits_for_text(hub: Any, url: str) -> None:
    answer = hub.InferenceClient(model=url).text_generation("Once", max_new_tokens=3, details=True)
    assert answer.details.generated_tokens == 3
    assert answer.generated_text == "".join(each.text for each in answer.details.tokens)


@pytest.mark.parametrize("named_by", ["base_url", "model"])
def test_hugging_faces_client_chats(named_by: str, hub: Any, url: str) -> None:
    messages = [{"role": "user", "content": "hello"}]  # it makes up a name for the model
    client = hub.InferenceClient(**{named_by: url})
    answer = client.chat_completion(messages, max_tokens=8)
    assert answer.model == "demo"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens <= 8
