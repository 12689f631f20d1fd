"""Run by the Python of instructor's environment: an answer of a class."""

import json
import sys

import instructor
import openai
from pydantic import BaseModel, Field

HELLO = [{"role": "user", "content": "Make up a pet."}]


class Pet(BaseModel):
    model_config = {"extra": "forbid"}  # else a tiny model makes up fields until its tokens end

    name: str = Field(max_length=12)
    age: int = Field(ge=0, le=99)


def extracted(mode: instructor.Mode) -> str:
    client = instructor.from_openai(
        openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none", max_retries=0), mode=mode
    )
    found = client.chat.completions.create(
        model="dummy", messages=HELLO, response_model=Pet, max_tokens=200, max_retries=0
    )
    return type(found).__name__


print(json.dumps({
    "tools": extracted(instructor.Mode.TOOLS),
    "JSON schema": extracted(instructor.Mode.JSON_SCHEMA),
}))  # fmt: skip
