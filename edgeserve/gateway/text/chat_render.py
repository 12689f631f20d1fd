"""A process that turns messages into a prompt with a template that came with a model.

A template is a program, written by whoever made the model. jinja2's sandbox keeps it from reaching
anything but the messages; that it neither runs for ever nor fills the memory, only a process of its
own can promise: this one has a bound on its memory, and is killed when it takes too long (see
`chat_template.py`, which speaks with it). One question a line, one answer a line, both JSON; it
ends when nobody asks any more. Refuses to know tokens, models and requests.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, lru_cache, partial
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeserve.clock import written_now
from edgeserve.gateway.text.chat_presence import missing_place

MEMORY_BYTES_MAX = 512 * 2**20  # the interpreter takes 30 MiB; a body of 2 MiB some of its sizes
PROMPT_CHARACTERS_MAX = 8 * 2**20  # four times the largest body: templates frame, they do not write
FAULTS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template can cause. Anything else ends the process, which is an answer, too."""


class GenerationMarks(Extension):
    """`{% generation %}` marks what the model itself said, for its training. It prints nothing."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()


def answer(question: Mapping[str, Any]) -> dict[str, str]:
    """`question` has the template and its variables; the answer is its text, or what is wrong. With
    a text comes `missing`, if it lacks something that was sent.
    """
    # Asked twice within one question, the clock says the same.
    variables = {**question["variables"], "strftime_now": cache(written_now)}
    render = partial(_render, question["template"])
    try:
        text = render(variables)
    except FAULTS as error:
        return {"error": f"{type(error).__name__}: {error}"}
    with suppress(*FAULTS):  # a template that cannot read marked texts says nothing of these
        missing = missing_place(variables, text, render)
        if missing is not None:
            return {"text": text, "missing": missing}
    return {"text": text}


def _render(source: str, variables: Mapping[str, Any]) -> str:
    parts: list[str] = []
    characters = 0
    for part in _compiled(source).generate(variables):
        parts.append(part)
        characters += len(part)
        if characters > PROMPT_CHARACTERS_MAX:
            raise ValueError(f"its prompt is longer than {PROMPT_CHARACTERS_MAX} characters")
    return "".join(parts)


@lru_cache(maxsize=1)
def _compiled(source: str) -> Template:
    """With what transformers gives to templates: they are written for it."""
    environment = ImmutableSandboxedEnvironment(  # the prompt is text, not HTML
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMarks, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """jinja2's own writes `<` as an escape, for web pages."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


if __name__ == "__main__":
    main()
