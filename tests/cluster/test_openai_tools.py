"""Calls of functions through OpenAI's own client, from a random model behind real workers."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import jsonschema
import pytest

from edgeserve.config import Address
from tests.cluster.conftest import StartGateway, TinyModel
from tests.cluster.processes import START_S
from tests.gateway.tool_templates import TAGGED_TEMPLATE

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

openai = pytest.importorskip("openai")
SCHEMAS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": ["Rome", "Oslo", "K\u00f6ln"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "days"],
        "additionalProperties": False,
    },
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
"""Bounded: what a random model says has no other end."""
ASK: dict[str, Any] = {
    "model": "caller",
    "messages": [{"role": "user", "content": "Is it warm?"}],
    "tools": [
        {"type": "function", "function": {"name": name, "parameters": schema}}
        for name, schema in SCHEMAS.items()
    ],
    "max_tokens": 1500,
}


@pytest.fixture(scope="module")
def url(
    workers: tuple[Address, ...],
    module_gateway: StartGateway,
    talker: TinyModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    folder = tmp_path_factory.mktemp("callers") / "caller"
    shutil.copytree(talker.folder, folder)
    (Path(folder) / "chat_template.jinja").write_text(TAGGED_TEMPLATE)
    return module_gateway(workers, str(folder)).wait_until_announced(START_S)


@pytest.fixture
async def client(url: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def names_called(message: Any) -> list[str]:
    """Each with arguments that its schema allows."""
    for call in message.tool_calls:
        schema = SCHEMAS[call.function.name]
        jsonschema.validate(json.loads(call.function.arguments), schema)
    return [call.function.name for call in message.tool_calls]


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_call_that_is_required_comes_whole_and_streamed(client: Any, seed: int) -> None:
    asked = {**ASK, "tool_choice": "required", "temperature": 1.0, "seed": seed}
    whole = (await client.chat.completions.create(**asked)).choices[0]
    assert names_called(whole.message)
    assert whole.message.content is None
    assert whole.finish_reason == "tool_calls"
    async with client.chat.completions.stream(**asked) as stream:
        events = [event async for event in stream]
        final = (await stream.get_final_completion()).choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.content is None
    assert [call.function.arguments for call in final.message.tool_calls] == [
        call.function.arguments for call in whole.message.tool_calls
    ]
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.name for event in done] == names_called(whole.message)


async def test_a_function_that_is_named_is_called_once(client: Any) -> None:
    for name in SCHEMAS:
        named = {"type": "function", "function": {"name": name}}
        answer = await client.chat.completions.create(**ASK, tool_choice=named)
        assert names_called(answer.choices[0].message) == [name]


async def test_a_conversation_goes_on_after_its_calls(client: Any) -> None:
    """With the client's own objects sent back as they came."""
    asked = {**ASK, "tool_choice": "required", "parallel_tool_calls": False, "seed": 3}
    async with client.chat.completions.stream(**asked) as stream:
        streamed = (await stream.get_final_completion()).choices[0].message
    whole = (await client.chat.completions.create(**asked)).choices[0].message
    for message in (whole, streamed, whole.model_dump(), streamed.model_dump()):
        calls = (
            message["tool_calls"] if isinstance(message, dict) else message.to_dict()["tool_calls"]
        )
        result = {"role": "tool", "tool_call_id": calls[0]["id"], "content": "21 degrees"}
        messages = [*ASK["messages"], message, result]
        answer = await client.chat.completions.create(
            **{**ASK, "messages": messages, "max_tokens": 5, "temperature": 0}
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.prompt_tokens > 50


async def test_hugging_faces_client_reads_calls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    client = hub.InferenceClient(base_url=url)
    asked = {key: ASK[key] for key in ("model", "messages", "tools", "max_tokens")}
    answer = client.chat_completion(**asked, tool_choice="required", seed=5)
    assert names_called(answer.choices[0].message)


async def test_a_required_call_is_an_item_of_a_response(client: Any) -> None:
    """Whole and streamed, and with what it said the conversation goes on."""
    tools = [
        {"type": "function", "name": name, "parameters": schema, "strict": True}
        for name, schema in SCHEMAS.items()
    ]
    asked = {"model": "caller", "tools": tools, "max_output_tokens": 1500}
    once = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": 1.0}
    extra = {"extra_body": {"seed": 3}}
    whole = await client.responses.create(**asked, **once, **extra, input="Is it warm?")
    (call,) = whole.output
    jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
    async with client.responses.stream(**asked, **once, **extra, input="Is it warm?") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [(item.name, item.arguments) for item in final.output] == [(call.name, call.arguments)]
    (done,) = [each for each in events if each.type == "response.function_call_arguments.done"]
    assert done.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}
    items = [{"role": "user", "content": "Is it warm?"}, *whole.output, result]
    after = await client.responses.create(**{**asked, "max_output_tokens": 5}, input=items)
    assert after.usage.input_tokens > whole.usage.input_tokens


async def test_a_required_call_is_a_block_of_a_message(url: str) -> None:
    """Whole and streamed, and with what it said the conversation goes on."""
    tools: Any = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
    once: Any = {"type": "any", "disable_parallel_tool_use": True}
    asked: Any = {"model": "caller", "tools": tools, "max_tokens": 1500}
    forced: Any = {**asked, "messages": ASK["messages"], "tool_choice": once}
    seeded: Any = {**forced, "extra_body": {"seed": 3}}
    opened: Any = anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0)
    async with opened as client:
        whole = await client.messages.create(**seeded)
        async with client.messages.stream(**seeded) as stream:
            final = await stream.get_final_message()
        for message in (whole, final):
            (call,) = message.content
            assert (call.type, message.stop_reason) == ("tool_use", "tool_use")
            jsonschema.validate(call.input, SCHEMAS[call.name])
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
            said = [*ASK["messages"], message.to_param(), {"role": "user", "content": [result]}]
            answer = await client.messages.create(**{**asked, "max_tokens": 5}, messages=said)
            assert answer.usage.output_tokens == 5
        assert whole.content[0].to_dict()["input"] == final.content[0].to_dict()["input"]
