"""Run by the Python of openai's environment: what its users do first."""

import json
import sys

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0)
HELLO = [{"role": "user", "content": "Hello!"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}


class Pet(BaseModel):
    name: str
    age: int


def chat() -> str:
    (model,) = client.models.list().data
    answer = client.chat.completions.create(model=model.id, messages=HELLO, max_tokens=20)
    return answer.choices[0].message.content


def streamed() -> int:
    chunks = client.chat.completions.create(
        model="dummy", messages=HELLO, max_tokens=20, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    return [each.usage for each in chunks][-1].completion_tokens


def called() -> str:
    function = {"name": "get_weather", "parameters": WEATHER, "strict": True}
    answer = client.chat.completions.create(
        model="dummy", messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[{"type": "function", "function": function}], tool_choice="required",
        max_tokens=100,
    )  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls[:1]
    return f"{call.function.name}({', '.join(json.loads(call.function.arguments))})"


def parsed() -> str:
    schema = Pet.model_json_schema()
    schema["properties"]["name"]["maxLength"] = 12
    schema["properties"]["age"] |= {"minimum": 0, "maximum": 99}
    answer = client.chat.completions.create(
        model="dummy", messages=HELLO, max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {
            "name": "pet", "schema": schema, "strict": True}},
    )  # fmt: skip
    return type(Pet.model_validate_json(answer.choices[0].message.content)).__name__


def responded() -> int:
    answer = client.responses.create(model="dummy", input="Hello!", max_output_tokens=20)
    return answer.usage.output_tokens


def scored() -> int:
    answer = client.completions.create(
        model="dummy", prompt="Once upon a time", max_tokens=0, echo=True, logprobs=1
    )
    return len(answer.choices[0].logprobs.token_logprobs)


print(json.dumps({
    "chat": bool(chat()),
    "stream with usage": streamed() > 0,
    "tool call": called(),
    "JSON schema": parsed(),
    "responses": responded() > 0,
    "logprobs of a prompt": scored() > 1,
}))  # fmt: skip
