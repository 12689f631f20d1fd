"""The bodies of the tokenizer's routes, in vLLM's words. Refuses to know what the tokens are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgeserve.gateway.api.body import Body
from edgeserve.gateway.api.chat_prompt import ChatPromptFields
from edgeserve.gateway.generate.conversation import Conversation
from edgeserve.gateway.generate.parameters import COUNT_MAX, Parameters

TOKENS_MAX = 2**18
"""Of one text: twice the longest context that there is."""


class TokenizerBody(Body):
    ACCEPTED = frozenset({"priority", "request_id", "user"})

    model: str | None = Field(
        None,
        max_length=1024,
        description="a name in /v1/models, a path that ends in one, or a placeholder",
    )


class TokenizePrompt(TokenizerBody):
    prompt: str = Field(description="a string")
    add_special_tokens: bool | None = Field(None, description="true or false")
    return_token_strs: bool | None = Field(None, description="true or false")


class TokenizeChat(TokenizerBody, ChatPromptFields):
    NOT_SERVED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "chat_template": (None,),
        "continue_final_message": (None, False),
        "mm_processor_kwargs": (None, {}),
        "media_io_kwargs": (None, {}),
    }

    add_special_tokens: bool | None = Field(None, description="true or false")
    return_token_strs: bool | None = Field(None, description="true or false")

    def contradictions(self) -> Iterator[str]:
        yield from self.prompt_contradictions()

    def conversation(self) -> Conversation:
        return Conversation(
            messages=[message.told() for message in self.messages],
            answers=[Parameters.model_validate({})],
            tools=self.told_tools(),
            template_arguments=self.template_arguments,
            asks_for_answer=self.add_generation_prompt is not False,
            frames_prompt=bool(self.add_special_tokens),
        )


class Detokenize(TokenizerBody):
    tokens: list[Annotated[int, Field(ge=0, le=COUNT_MAX)]] = Field(
        max_length=TOKENS_MAX,
        fail_fast=True,
        description=f"a list of at most {TOKENS_MAX} token ids, whole numbers from 0",
    )
