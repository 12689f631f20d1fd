"""Run by the Python of pydantic-ai's environment: an agent with one tool, in three dialects."""

import json
import sys
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

openai = OpenAIProvider(base_url=f"{sys.argv[1]}/v1", api_key="none")
anthropic = AnthropicProvider(base_url=sys.argv[1], api_key="none")


def asked(model: Any) -> str:
    """What was called, and whether the answer quotes the result."""
    calls = []
    agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 100})

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        calls.append(city)
        return "rainy, 12 degrees"

    answer = agent.run_sync("What is the weather in Lisbon?")
    quoted = "quoted" if "12" in answer.output or "rainy" in answer.output else answer.output
    return f"get_weather({', '.join(calls)}), {quoted}"


print(json.dumps({
    "agent over chat completions": asked(OpenAIChatModel("dummy", provider=openai)),
    "agent over responses": asked(OpenAIResponsesModel("dummy", provider=openai)),
    "agent over messages": asked(AnthropicModel("dummy", provider=anthropic)),
}))  # fmt: skip
