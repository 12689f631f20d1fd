"""Run by the Python of langchain-openai's environment: what its users do first."""

import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

AT = {"base_url": f"{sys.argv[1]}/v1", "api_key": "none", "model": "dummy", "max_retries": 0}
llm = ChatOpenAI(**AT, max_tokens=100)


class Pet(BaseModel):
    """An animal."""

    age: int = Field(ge=0, le=99)


@tool
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


def called() -> str:
    answer = llm.bind_tools([double], tool_choice="required", strict=True).invoke("Double 4")
    return f"{answer.tool_calls[0]['name']}({', '.join(answer.tool_calls[0]['args'])})"


print(json.dumps({
    "invoke": bool(llm.invoke("Hello!").content),
    "stream": "".join(each.content for each in llm.stream("Hello!")) != "",
    "bind_tools": called(),
    "with_structured_output": type(llm.with_structured_output(Pet).invoke("Make one")).__name__,
    "use_responses_api": bool(ChatOpenAI(**AT, use_responses_api=True).invoke("Hello!").text),
}))  # fmt: skip
