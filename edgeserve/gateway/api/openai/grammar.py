"""What an answer may be held to, in the words of OpenAI, of TGI and of vLLM: one form of answer in
the end. Refuses to know the rest of a request, and how a form is kept
(`text/grammar.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, model_validator

from edgeserve.gateway.generate.conversation import ChoiceAnswer, HeldTo, JsonAnswer, RegexAnswer
from edgeserve.gateway.generate.parameters import STRICT, schema_of

CHOICES_MAX = 256
"""Of `guided_choice`: each is a branch of a grammar, which has a bound of its own."""
_Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1024)]],
    Field(min_length=1, max_length=CHOICES_MAX, fail_fast=True),
]


_Schema = Annotated[
    dict[str, Any],
    BeforeValidator(schema_of),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
]


class JsonSchema(BaseModel):
    """`strict` or not, the answer is held to the schema. The schema is llguidance's to read."""

    model_config = STRICT

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """`json_schema` is OpenAI's, `value` TGI's, and `schema` beside `json_object` that of servers
    which had schemas before OpenAI did.
    """

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema", "json", "regex"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    value: dict[str, Any] | str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_schema(cls, form: Any) -> Any:
        """A schema may come as JSON in a string."""
        if not isinstance(form, dict) or form.get("type") == "regex":
            return form
        is_text = isinstance(form.get("value"), str)
        return {**form, "value": schema_of(form["value"])} if is_text else form

    def problem(self) -> str | None:
        """What is wrong though each part by itself is right."""
        given = [name for name, value in self._parts() if value is not None]
        allowed = ALLOWED_PARTS[self.type]
        others = [name for name in given if name not in allowed]
        if others or len(given) > 1:
            known = " or ".join(allowed) if allowed else "nothing"
            return (
                f"type is {self.type}, but {' and '.join(given)} is given: give {known} beside it"
            )
        if not given and self.type in NEEDING_PARTS:
            return f"type is {self.type}, but {' or '.join(allowed)} is missing: give it"
        if self.type == "regex" and not isinstance(self.value, str):
            return "type is regex, but value is no string: give an expression"
        return None

    def held_to(self) -> HeldTo | None:
        if self.type == "text":
            return None
        if isinstance(self.value, str):
            return RegexAnswer(pattern=self.value)
        is_strict = self.json_schema is not None and bool(self.json_schema.strict)
        return JsonAnswer(schema=self._schema(), is_strict=is_strict)

    def _schema(self) -> Mapping[str, Any] | None:
        if self.json_schema is not None:
            return self.json_schema.schema_
        if self.value is None:
            return self.schema_
        assert isinstance(self.value, dict), "a string is an expression"
        schema = self.value.get("schema")
        # TGI's `json_schema` has a name and a schema in its value.
        return schema if self.type == "json_schema" and isinstance(schema, dict) else self.value

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "json_schema", self.json_schema
        yield "schema", self.schema_
        yield "value", self.value


ALLOWED_PARTS = {
    "text": (),
    "json_object": ("value", "schema"),
    "json_schema": ("json_schema", "value"),
    "json": ("value", "schema"),
    "regex": ("value",),
}
NEEDING_PARTS = {"json_schema", "regex"}


class StructuredOutputs(BaseModel):
    """vLLM's. Its `grammar` and `structural_tag` are languages of their own, which are not spoken
    here.
    """

    model_config = STRICT

    json_: _Schema | None = Field(None, alias="json")
    regex: str | None = Field(None, min_length=1)
    choice: _Choices | None = None
    json_object: bool | None = None
    grammar: None = None
    structural_tag: None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    disable_fallback: bool | None = None
    whitespace_pattern: None = None

    def forms(self) -> Iterator[HeldTo]:
        if self.json_object:
            yield JsonAnswer()
        yield from _forms(self.json_, self.regex, self.choice)


class GrammarFields(BaseModel):
    """Of both of OpenAI's routes. Each description finishes the sentence '... must be'."""

    model_config = STRICT

    response_format: ResponseFormat | None = Field(
        None,
        description='an object such as {"type": "json_object"}: type is text, json_object, '
        "json_schema with a json_schema of a name and a schema, or json or regex with a value",
    )
    guided_json: _Schema | None = Field(
        None, description="a JSON schema, as an object or as JSON in a string"
    )
    guided_regex: str | None = Field(
        None, min_length=1, description="a regular expression that the whole answer matches"
    )
    guided_choice: _Choices | None = Field(
        None,
        description=f"a list of 1 to {CHOICES_MAX} strings of 1 to 1024 characters, of which the "
        "answer is one",
    )
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="an object with one of json, regex, choice and json_object, such as "
        '{"choice": ["yes", "no"]}',
    )

    @property
    def held_to(self) -> HeldTo | None:
        """The form that the answers have to have; None: they are free text."""
        return next(self._forms(), None)

    def grammar_contradictions(self) -> Iterator[str]:
        form = self.response_format
        problem = None if form is None else form.problem()
        if problem is not None:
            yield f"response_format.{problem}"
        elif len([*self._forms()]) > 1:
            yield (
                "the answer is to have several forms: give one of response_format, guided_json, "
                "guided_regex, guided_choice and structured_outputs"
            )

    def _forms(self) -> Iterator[HeldTo]:
        asked = None if self.response_format is None else self.response_format.held_to()
        if asked is not None:
            yield asked
        yield from _forms(self.guided_json, self.guided_regex, self.guided_choice)
        if self.structured_outputs is not None:
            yield from self.structured_outputs.forms()


def _forms(
    schema: Mapping[str, Any] | None, pattern: str | None, choices: list[str] | None
) -> Iterator[HeldTo]:
    if schema is not None:
        yield JsonAnswer(schema=schema)
    if pattern is not None:
        yield RegexAnswer(pattern=pattern)
    if choices is not None:
        yield ChoiceAnswer(choices=choices)
