"""Run by the Python of litellm's environment: what its users do first."""

import json
import sys

import litellm

AT = {"api_base": f"{sys.argv[1]}/v1", "api_key": "none"}
HELLO = [{"role": "user", "content": "Hello!"}]


def chat() -> int:
    answer = litellm.completion("openai/dummy", messages=HELLO, max_tokens=8, **AT)
    return answer.usage.completion_tokens


def streamed() -> str:
    chunks = litellm.completion("openai/dummy", messages=HELLO, max_tokens=8, stream=True, **AT)
    return "".join(each.choices[0].delta.content or "" for each in chunks)


def responded() -> int:
    answer = litellm.responses(model="openai/dummy", input="Hello!", max_output_tokens=8, **AT)
    return answer.usage.output_tokens


def through_messages() -> int:
    answer = litellm.completion(
        "anthropic/dummy", messages=HELLO, max_tokens=8, api_base=sys.argv[1], api_key="none"
    )
    return answer.usage.completion_tokens


print(json.dumps({
    "completion": chat() > 0,
    "stream": bool(streamed()),
    "responses": responded() > 0,
    "anthropic's messages": through_messages() > 0,
}))  # fmt: skip
