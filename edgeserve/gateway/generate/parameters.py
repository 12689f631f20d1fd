"""How a request wants its answer made: the parameters that all APIs share, by TGI's names.

What this module refuses to know: the model. Whether the numbers fit it is the business of
`intake.py`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edgeserve.frames.sampling import BIASES_MAX, PENALTY_MAX, SEED_MAX, TOP_LOGPROBS_MAX
from edgeserve.gateway.text.json_text import parsed
from edgeserve.gateway.text.options import TextOptions

COUNT_MAX = 2**31 - 1
STOPS_MAX = 32
"""Each token's text is compared with each: 32 of them take up to 1 ms."""
STOP_TOKENS_MAX = 128
SEED_MIN = -(2**63)
"""Clients draw seeds of 64 bits with or without a sign. -1 asks for a drawn one, as vLLM has it."""
STRICT = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
StopString = Annotated[str, Field(min_length=1, max_length=256)]
_TokenId = Annotated[int, Field(ge=0, le=COUNT_MAX)]
_TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_Bias = Annotated[float, Field(ge=-100, le=100)]


def _few(biases: Any) -> Any:
    """Before each is looked at: 2 MiB of them would be 2 MiB of problems."""
    if isinstance(biases, dict) and len(biases) > BIASES_MAX:
        raise ValueError
    return biases


def _grammar(grammar: Any) -> Any:
    """By one name for each of the two kinds, whatever TGI's clients call it."""
    match grammar:
        case None:
            return None
        case {"type": "regex", "value": str(), **others} if not others:
            return grammar
        case {"type": "json" | "json_object", "value": value, **others} if not others:
            return {"type": "json", "value": schema_of(value)}
        case {"type": "json_schema", "value": value, **others} if not others:
            schema = schema_of(value)
            return {"type": "json", "value": schema_of(schema.get("schema", schema))}
    raise ValueError


def schema_of(value: Any) -> dict[str, Any]:
    """Clients send a schema as an object, or as JSON in a string. Raises ValueError."""
    try:
        schema = parsed(value) if isinstance(value, str) else value
    except RecursionError:
        raise ValueError from None
    if not isinstance(schema, dict):
        raise ValueError  # noqa: TRY004  # pydantic makes a refusal of this one alone
    return schema


class Parameters(BaseModel):
    """How to answer. Each description finishes the sentence '... must be'.

    Tokens are sampled if `do_sample` is true or a `temperature` above 0 is given. Otherwise the
    most likely one is taken, which `top_k`, `top_p` and `min_p` would keep anyway: then they change
    nothing.
    """

    model_config = STRICT

    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=COUNT_MAX,
        description="a whole number from 1, at most what the context leaves",
    )
    temperature: float | None = Field(
        None, ge=0, le=100, description="a number from 0 (greedy) to 100"
    )
    top_k: int | None = Field(
        None, ge=-1, le=COUNT_MAX,
        description="a whole number to the vocabulary; 0 and -1 keep all",
    )  # fmt: skip
    top_p: float | None = Field(
        None, gt=0, le=1, description="a number above 0, at most 1 (keeps all)"
    )
    min_p: float | None = Field(None, ge=0, le=1, description="a number from 0 (keeps all) to 1")
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="a number above 0, at most 10; 1 changes nothing"
    )
    frequency_penalty: float | None = Field(
        None, ge=-PENALTY_MAX, le=PENALTY_MAX,
        description="a number from -2 to 2; 0 changes nothing",
    )  # fmt: skip
    presence_penalty: float | None = Field(
        None, ge=-PENALTY_MAX, le=PENALTY_MAX,
        description="a number from -2 to 2; 0 changes nothing",
    )  # fmt: skip
    logit_bias: Annotated[dict[_TokenKey, _Bias] | None, BeforeValidator(_few)] = Field(
        None,
        description=f"an object of at most {BIASES_MAX} token ids, each with a number from -100 to "
        "100",
    )
    seed: int | None = Field(
        None, ge=SEED_MIN, le=SEED_MAX,
        description="a whole number from -2^63 to 2^64 - 1; -1 draws one",
    )  # fmt: skip
    do_sample: bool | None = Field(None, description="true or false")
    stop: list[StopString] | None = Field(
        None,
        max_length=STOPS_MAX,
        fail_fast=True,
        description=f"a list of at most {STOPS_MAX} strings of 1 to 256 characters",
    )
    stop_token_ids: list[_TokenId] | None = Field(
        None,
        max_length=STOP_TOKENS_MAX,
        fail_fast=True,
        description=f"a list of at most {STOP_TOKENS_MAX} token ids, whole numbers from 0",
    )
    ignore_eos: bool | None = Field(None, description="true or false")
    min_tokens: int | None = Field(
        None, ge=0, le=COUNT_MAX,
        description="a whole number from 0: how many tokens come before the answer may end",
    )  # fmt: skip
    skip_special_tokens: bool | None = Field(
        None, description="true or false; false writes special tokens out"
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="true or false; true leaves what stopped the answer in its text"
    )
    truncate: int | None = Field(
        None, ge=1, le=COUNT_MAX,
        description="a whole number from 1: how many of the prompt's last tokens to keep",
    )  # fmt: skip
    speculate: bool | None = Field(
        None, description="true or false; false measures the pace without drafted tokens"
    )
    return_full_text: bool | None = Field(None, description="true or false")
    details: bool | None = Field(None, description="true or false")
    decoder_input_details: bool | None = Field(None, description="true or false")
    top_n_tokens: int | None = Field(
        None, ge=0, le=TOP_LOGPROBS_MAX,
        description="a whole number from 0 to 20: how many of the likeliest tokens to tell",
    )  # fmt: skip
    grammar: Annotated[dict[str, Any] | None, BeforeValidator(_grammar)] = Field(
        None,
        description='an object such as {"type": "json", "value": {"type": "object"}}, whose value '
        'is a JSON schema, or {"type": "regex", "value": "[0-9]+"}',
    )

    @property
    def text_options(self) -> TextOptions:
        return TextOptions(
            min_tokens=self.min_tokens or 0,
            shows_specials=self.skip_special_tokens is False,
            keeps_stop=bool(self.include_stop_str_in_output),
        )
