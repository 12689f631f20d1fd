"""A model's chat template: where it is found, and messages made a prompt by it within bounds.

The rendering itself is another process's work (`chat_render.py` says why). It is started with the
first chat, kept for the next, and killed if it takes too long. Refuses to know what a message may
hold: that is the business of `api/`.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edgeserve.config import PREFIX, environment_with
from edgeserve.errors import BadModel, Unprocessable
from edgeserve.gateway.text.chat_roles import calls_apart, known_roles
from edgeserve.gateway.text.json_text import cut
from edgeserve.gateway.text.tokenizer import read_object, token_text
from edgeserve.gateway.text.tool_call import Syntax, syntax_of

RENDER_S = 5.0  # a prompt takes a few ms; the first waits for a process to start, 0.2 s here
NAME = "default"  # of several templates, the one that is for chats without tools
TOOLS_NAME = "tool_use"  # and the one for those with tools, if there is one
RESERVED = frozenset(
    {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template",
        "tokenize", "raise_exception", "strftime_now",
    }
)  # fmt: skip
"""What the gateway itself gives to a template, or decides beside it. A client gives other names."""


def read_chat_template(folder: Path | None) -> ChatTemplate | None:
    """What a model's folder has for chats. Of files and configuration the files count, as
    transformers has it; both may have several templates, by name.

    None if it has none, or if there is no folder. Raises BadModel.
    """
    if folder is None:
        return None
    config = read_object(folder / "tokenizer_config.json")
    older = read_object(folder / "chat_template.json")  # as processors have it
    files = _files(folder)
    named = {**_listed(folder, older), **_listed(folder, config), **files}
    source, tools_source = named.get(NAME), named.get(TOOLS_NAME)
    if source is None and tools_source is None:
        return None
    tokens = {**read_object(folder / "special_tokens_map.json"), **config}
    texts = ((name, token_text(each)) for name, each in tokens.items() if name.endswith("_token"))
    return ChatTemplate(
        source,
        {name: text for name, text in texts if text is not None},
        tools_source=tools_source,
    )


def _files(folder: Path) -> dict[str, str]:
    """`chat_template.jinja` is the default; the name of any other is its own."""
    more = sorted((folder / "additional_chat_templates").glob("*.jinja"))
    paths = {path.stem: path for path in more} | {NAME: folder / "chat_template.jinja"}
    return {name: _read(path) for name, path in paths.items() if path.is_file()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read: {error}") from None


def _listed(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """One string, or a list of several with their names."""
    configured = config.get("chat_template")
    if isinstance(configured, list):
        objects = [each for each in configured if isinstance(each, dict)]
        named = {str(each.get("name")): each.get("template") for each in objects}
    else:
        named = {NAME: configured}
    for source in named.values():
        if source is not None and not isinstance(source, str):
            raise BadModel(
                f"{folder}: chat_template is a {type(source).__name__}; a string, or a list of "
                f"named ones with one called {NAME!r}, is needed"
            )
    return {name: source for name, source in named.items() if source is not None}


class ChatTemplate:
    """`tokens` are the texts of special tokens by name, such as `bos_token`; `tools_source` is the
    template for chats with tools, if that is another one. Of the two there is one.
    """

    def __init__(
        self,
        source: str | None,
        tokens: Mapping[str, str],
        *,
        tools_source: str | None = None,
        render_s: float = RENDER_S,
    ) -> None:
        self._source = source
        self._tools_source = source if tools_source is None else tools_source
        self._tokens = dict(tokens)
        self._render_s = render_s
        self._turn = threading.Lock()
        self._renderer: _Renderer | None = None

    @property
    def told(self) -> str | None:
        """The template for chats without tools, for those who render it themselves. They may not
        know the texts of special tokens that it names, so it sets them, unless it is given others.
        """
        if self._source is None:
            return None
        named = ((name, text) for name, text in self._tokens.items() if name in self._source)
        head = (
            f"{{%- set {name} = {name} | default({json.dumps(text)}) %}}" for name, text in named
        )
        return "".join(head) + self._source

    @property
    def call_syntax(self) -> Syntax | None:
        """In which the model calls functions; None if it cannot, or in a way that is not known."""
        return syntax_of(self._tools_source or "")

    async def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Any] | None = None,
        *,
        template_arguments: Mapping[str, Any] | None = None,
        asks_for_answer: bool = True,
    ) -> str:
        """The prompt, up to where the model is to go on: behind how an answer begins, unless
        nobody `asks_for_answer`.

        `template_arguments` are variables of the template that the client sets, such as
        `enable_thinking`, with values that JSON can hold. Raises Unprocessable, also for what was
        sent and is not in the prompt.
        """
        given = dict(template_arguments or {})
        self._refuse_reserved(given)
        source = self._tools_source if tools else self._source
        if source is None:
            raise Unprocessable(
                f"of its chat templates the model has none called {NAME!r}, but for chats with "
                "tools alone; send tools, or post a prompt to /v1/completions",
                param="messages",
            )
        told = known_roles(messages, source)
        asked = {"tools": tools, "add_generation_prompt": asks_for_answer}
        variables = {**self._tokens, **given, **asked}
        document = await self._rendered(source, {**variables, "messages": told})
        if "missing" in document and (apart := calls_apart(told)) != told:
            again = await self._rendered(source, {**variables, "messages": apart})
            document = again if again.keys() == {"text"} else document
        return _text(document, told)

    async def _rendered(self, source: str, variables: Mapping[str, Any]) -> dict[str, str]:
        """What `chat_render.answer` says. Raises Unprocessable if it had to be ended."""
        question = json.dumps({"template": source, "variables": variables})
        answer = await asyncio.to_thread(self._ask, question.encode() + b"\n")
        if not answer.endswith(b"\n"):
            raise Unprocessable(
                f"the model's chat template was given up after {self._render_s:g} s, or for the "
                "memory that it took; send fewer messages, or post a prompt to /v1/completions",
                param="messages",
            )
        document: dict[str, str] = json.loads(answer)
        return document

    def _refuse_reserved(self, arguments: Mapping[str, Any]) -> None:
        taken = sorted(arguments.keys() & (RESERVED | self._tokens.keys()))
        if taken:
            raise Unprocessable(
                f"chat_template_kwargs has {', '.join(taken)}, which the gateway gives to the chat "
                "template itself: leave it out",
                param="chat_template_kwargs",
            )

    def _ask(self, question: bytes) -> bytes:
        """One line, unless the process was killed or ended. Threads take turns."""
        with self._turn:
            if self._renderer is None or self._renderer.has_ended:
                self._renderer = _Renderer()
            answer = self._renderer.ask(question, self._render_s)
            if not answer.endswith(b"\n"):
                self._renderer = None  # whether or not it is dead yet
            return answer


def _text(document: Mapping[str, str], messages: Sequence[Mapping[str, Any]]) -> str:
    if "error" in document:
        raise Unprocessable(
            f"the model's chat template refuses these messages: {cut(document['error'])}",
            param="messages",
        )
    if "missing" in document:
        place = document["missing"]
        found = re.match(r"messages\[([0-9]+)\]", place)
        role = f", of role {messages[int(found[1])]['role']}," if found else ""
        raise Unprocessable(
            f"{place}{role} is not in the prompt that the model's chat template makes of these "
            "messages; leave it out, or say it where the template has it: in the content of a "
            "user message",
            param=place.partition("[")[0],
        )
    return document["text"]


class _Renderer:
    """The process. It ends with this object, at the latest."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgeserve.gateway.text.chat_render"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_without_secrets(),
        )
        weakref.finalize(self, _end, self._process)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, question: bytes, patience_s: float) -> bytes:
        """Empty, or half a line, if it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        patience = threading.Timer(patience_s, self._process.kill)
        patience.start()
        try:
            self._process.stdin.write(question)
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            patience.cancel()


def _without_secrets() -> dict[str, str]:
    """Keys and tokens stay here: whoever got out of the sandbox would find none."""
    return {k: v for k, v in environment_with({}).items() if not k.startswith(PREFIX)}


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(BrokenPipeError), process:
        pass
