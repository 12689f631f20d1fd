"""Run by the Python of anthropic's environment: what its users do first."""

import json
import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
HELLO = [{"role": "user", "content": "Hello!"}]
TOOL = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def message() -> str:
    answer = client.messages.create(
        model="dummy", max_tokens=20, system="You are helpful.", messages=HELLO
    )
    return answer.content[0].text


def streamed() -> str:
    with client.messages.stream(model="dummy", max_tokens=20, messages=HELLO) as stream:
        text = "".join(stream.text_stream)
        return text if stream.get_final_message().usage.output_tokens else ""


def used() -> str:
    question = {"role": "user", "content": "What is the weather in Rome?"}
    answer = client.messages.create(
        model="dummy", max_tokens=100, messages=[question], tools=[TOOL],
        tool_choice={"type": "any"},
    )  # fmt: skip
    call = next(block for block in answer.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    after = client.messages.create(
        model="dummy", max_tokens=20, tools=[TOOL],
        messages=[
            question,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ],
    )  # fmt: skip
    return f"{call.name}({', '.join(call.input)}), {after.role}"


def counted() -> int:
    return client.messages.count_tokens(model="dummy", messages=HELLO).input_tokens


print(json.dumps({
    "message": bool(message()),
    "stream": bool(streamed()),
    "tool use": used(),
    "count_tokens": counted() > 0,
}))  # fmt: skip
