"""Run by the Python of huggingface_hub's environment: what its users do first."""

import json
import sys

from huggingface_hub import InferenceClient

client = InferenceClient(model=sys.argv[1])
HELLO = [{"role": "user", "content": "Hello!"}]


def generated() -> str:
    return client.text_generation("Once upon a time", max_new_tokens=8)


def streamed() -> int:
    *_, last = client.text_generation(
        "Once upon a time", max_new_tokens=8, stream=True, details=True
    )
    return last.details.generated_tokens


def chat() -> int:
    return client.chat_completion(HELLO, max_tokens=8).usage.completion_tokens


def shaped() -> list[str]:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"],
        "additionalProperties": False,
    }
    answer = client.chat_completion(
        HELLO, max_tokens=50,
        response_format={"type": "json_schema", "json_schema": {
            "name": "pet", "schema": schema, "strict": True}},
    )  # fmt: skip
    return [*json.loads(answer.choices[0].message.content)]


print(json.dumps({
    "text_generation": bool(generated()),
    "stream with details": streamed() == 8,
    "chat_completion": chat() > 0,
    "JSON schema": shaped(),
}))  # fmt: skip
