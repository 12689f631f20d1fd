"""Run by the Python of the environment of TGI's own client: what its users do first."""

import json
import sys

from text_generation import Client

client = Client(sys.argv[1])


def streamed() -> int:
    *_, last = client.generate_stream("Once upon a time", max_new_tokens=8)
    return last.details.generated_tokens


print(json.dumps({
    "generate": client.generate("Once upon a time", max_new_tokens=8).details.generated_tokens == 8,
    "generate_stream": streamed() == 8,
    "chat": bool(client.chat([{"role": "user", "content": "Hello!"}], max_tokens=8).choices),
}))  # fmt: skip
