"""Chat templates: where they are found, what transformers makes of them, and that none can harm."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from edgeserve.errors import BadModel, Unprocessable
from edgeserve.gateway.text import chat_render
from edgeserve.gateway.text.chat_template import RESERVED, ChatTemplate, read_chat_template
from edgeserve.gateway.text.tokenizer import read_tokenizer
from edgeserve.gateway.text.tool_call import TAGGED
from tests.gateway.conftest import write_json

DEMO = Path(__file__).parents[2] / "edgeserve" / "demo"
INSTRUCT = """{% if messages[0]['role'] == 'system' %}
  {% set loop_messages = messages[1:] %}
  {% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
  {% set loop_messages = messages %}
  {% set system = '' %}
{% endif %}
{% for message in loop_messages %}
  {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{ raise_exception('roles must alternate') }}
  {% endif %}
  {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' ~ (system if loop.first else '') + message.content.strip() + ' [/INST]' }}
  {% else %}
{{ ' ' + message['content'] | trim + ' ' + eos_token }}
  {% endif %}
{% endfor %}"""
"""With lines and indents that the environment takes away, a sum, a filter, and an error."""
TURNS = """{%- if messages[0].role != 'system' -%}
{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.content == '' -%}{%- continue -%}{%- endif -%}
{{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{{- {'tools': none, 'text': '<&>\u20ac', 'list': [1, 2.5, true]} | tojson(indent=2) }}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' }}{%- endif -%}"""
"""With marks that take white space away, `continue`, and JSON that is no web page."""
HEADERS = """{% set state = namespace(turn=0) %}{{ bos_token }}
{%- macro head(role) %}<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro %}
{{- head('system') }}Today: {{ strftime_now('%Y') }}{{ missing_token }}{{ pad_token }}<|eot_id|>
{%- for message in messages %}
    {%- set state.turn = state.turn + 1 %}
    {%- if message.role == 'assistant' %}
        {{- head(message.role) }}{% generation %}{{ message.content }}{% endgeneration %}<|eot_id|>
    {%- else %}
        {{- head(message.role) ~ state.turn ~ ' ' ~ message['content'] | trim ~ '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ head('assistant') }}{% endif %}"""
"""With a macro, a namespace, the date, marks for training, and tokens that there are not."""
STYLES = {"instruct": INSTRUCT, "turns": TURNS, "headers": HEADERS}
TALK = [
    {"role": "system", "content": "Be <kind> & 'fair'."},
    {"role": "user", "content": "  hello \n"},
    {"role": "assistant", "content": "hi {{ there }} "},
    {"role": "user", "content": "\u20ac?"},
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
DONE = [{"role": "user", "content": "done"}]
CONTENT = "{{ messages[0].content }}"


def rendered(source: str, messages: Any = TALK, **variables: Any) -> str:
    variables = {"messages": messages, "add_generation_prompt": True, **variables}
    return chat_render.answer({"template": source, "variables": variables})["text"]


def fault(source: str, **variables: Any) -> str:
    variables = {"messages": TALK, **variables}
    return chat_render.answer({"template": source, "variables": variables})["error"]


# -- the reference -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("messages", [TALK, TALK[1:2], TALK[1:]], ids=["all", "one", "no system"])
@pytest.mark.parametrize("style", STYLES)
async def test_a_prompt_is_what_transformers_makes_of_it(
    style: str, messages: list[dict[str, str]], byte_level_folder: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(byte_level_folder / "tokenizer.json"),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=STYLES[style],
    )
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": STYLES[style]}
    write_json(tmp_path / "tokenizer_config.json", config)
    template = read_chat_template(tmp_path)
    assert template is not None

    text = await template.render(messages)
    assert text == reference.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    ids = reference.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert read_tokenizer(byte_level_folder).encode_bare(text) == ids


def demo_prompt(messages: Any, tools: Any = None) -> str:
    template = read_chat_template(DEMO)
    assert template is not None
    variables = {**template._tokens, "messages": messages, "tools": tools}
    return rendered(template._source or "", **variables)


def test_the_demo_model_can_chat() -> None:
    assert demo_prompt(TALK) == (
        "<s>System: Be <kind> & 'fair'.\nUser:   hello \n\nAssistant:\nhi {{ there }} </s>\n"
        "User: \u20ac?\nAssistant:\n"
    )


CALLED: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Is it warm in Rome and Oslo?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "1", "function": {"name": "warm", "arguments": {"city": "Rome", "days": 2}}},
            {"id": "2", "function": {"name": "warm", "arguments": {"city": "Oslo"}}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "yes"},
    {"role": "tool", "tool_call_id": "2", "content": '{"warm": "no"}'},
]
WARM = {
    "name": "warm",
    "description": "Says whether it is warm.\n\nOr cold.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Of any country"},
            "days": {"type": "integer"},
            "unit": {"type": "string", "enum": ["C", "F"]},
            "at": {"type": "array", "items": {"type": "number"}},
            "by": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["city"],
    },
}


def test_the_demo_model_is_told_of_tools_calls_and_results() -> None:
    tools = [{"type": "function", "function": each} for each in (WARM, {"name": "now"})]
    assert (
        demo_prompt(CALLED, tools)
        == """<s>Tools:
warm(city:string,days?:integer,unit?:["C", "F"],at?:{"type": "array", "items": {"type": "number"}}\
,by?:{"anyOf": [{"type": "string"}, {"type": "null"}]}): Says whether it is warm.

Or cold.
city: Of any country
now()
System: Be brief.
User: Is it warm in Rome and Oslo?
Assistant:
<tool_call>
{"name": "warm", "arguments": {"city": "Rome", "days": 2}}
</tool_call>
<tool_call>
{"name": "warm", "arguments": {"city": "Oslo"}}
</tool_call></s>
Tool: yes
Tool: {"warm": "no"}
Assistant:
"""
    )


async def test_the_demo_model_is_told_all_that_was_sent() -> None:
    template = read_chat_template(DEMO)
    assert template is not None
    named = [{"role": "user", "content": "hello", "name": "Ada"}]
    named += [{"role": "assistant", "content": "hi", "name": "Bob"}]
    prompt = await template.render([*named, *CALLED], [{"type": "function", "function": WARM}])
    assert "\nUser Ada: hello\nAssistant Bob:\nhi</s>\nSystem: Be brief.\n" in prompt


def test_the_demo_model_calls_between_tags() -> None:
    template = read_chat_template(DEMO)
    assert template is not None
    assert template.call_syntax is TAGGED


# -- where it is found -------------------------------------------------------------------------


TWO = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]


@pytest.mark.parametrize(
    ("configured", "files", "sources"),
    [
        ("a", {}, ("a", "a")),
        ("a", {"chat_template.jinja": "b"}, ("b", "b")),
        ("a", {"chat_template.json": '{"chat_template": "c"}'}, ("a", "a")),
        (None, {"chat_template.json": '{"chat_template": "c"}'}, ("c", "c")),
        (None, {"chat_template.jinja": "b"}, ("b", "b")),
        (None, {"chat_template.jinja": ""}, ("", "")),
        (None, {"chat_template.jinja": "b", "additional_chat_templates/tool_use.jinja": "t"},
         ("b", "t")),
        (None, {"chat_template.jinja": "b", "additional_chat_templates/rag.jinja": "r"},
         ("b", "b")),
        (None, {"additional_chat_templates/tool_use.jinja": "t"}, (None, "t")),
        (TWO, {"additional_chat_templates/tool_use.jinja": "u"}, ("d", "u")),
        (TWO, {}, ("d", "t")),
        (TWO[:1], {}, (None, "t")),
        ([*TWO, {"name": "rag", "template": "r"}], {}, ("d", "t")),
        ([3], {}, None),
        ([{"name": "rag", "template": "r"}], {}, None),
        (None, {}, None),
    ],
)  # fmt: skip
def test_templates_are_found_where_transformers_finds_them(
    configured: Any, files: dict[str, str], sources: Any, tmp_path: Path
) -> None:
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": configured, "bos_token": None})
    (tmp_path / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    template = read_chat_template(tmp_path)
    assert (template and (template._source, template._tools_source)) == sources


@pytest.mark.slow
@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["plain", "tools"])
@pytest.mark.parametrize("several", ["files", "list"])
async def test_transformers_chooses_the_same_template(
    several: str, tools: Any, byte_level_folder: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(byte_level_folder / "tokenizer.json"), bos_token="<s>"
    )
    ending = " {{ messages[0].content }} {{ tools }}{{ bos_token }}"
    reference.chat_template = {name: name + ending for name in ("default", "tool_use", "rag")}
    reference.save_pretrained(tmp_path, save_jinja_files=several == "files")
    assert (tmp_path / "additional_chat_templates").is_dir() == (several == "files")
    loaded = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    template = read_chat_template(tmp_path)
    assert template is not None
    text = loaded.apply_chat_template(DONE, tools, tokenize=False, add_generation_prompt=True)
    assert await template.render(DONE, tools) == text


async def test_a_template_for_tools_alone_needs_tools() -> None:
    template = ChatTemplate(None, {}, tools_source="<tool_call>{{ tools ~ messages }}")
    assert template.call_syntax is TAGGED
    with pytest.raises(Unprocessable, match=r"none called 'default'.*; send tools, or"):
        await template.render(DONE)


def test_tokens_are_named_in_either_file(tmp_path: Path) -> None:
    older = {"bos_token": "<a>", "eos_token": {"content": "<b>"}, "additional_special_tokens": []}
    config = {"chat_template": "x", "bos_token": "<s>", "sep_token": None}
    write_json(tmp_path / "special_tokens_map.json", older)
    write_json(tmp_path / "tokenizer_config.json", config)
    template = read_chat_template(tmp_path)
    assert template is not None
    assert template._tokens == {"bos_token": "<s>", "eos_token": "<b>"}


@pytest.mark.slow
async def test_of_several_templates_the_one_for_tools_is_theirs(tmp_path: Path) -> None:
    several = [
        {"name": "default", "template": "{{ messages[0].content }} {{ tools is none }}"},
        {"name": "tool_use", "template": "<tool_call> {{ tools[0].function.name ~ messages }}"},
    ]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": several})
    template = read_chat_template(tmp_path)
    assert template is not None
    assert template.call_syntax is TAGGED
    assert await template.render(DONE) == "done True"
    told = await template.render(DONE, [TOOL])
    assert told.startswith("<tool_call> f[")


@pytest.mark.slow
async def test_arguments_of_the_client_are_variables_of_the_template() -> None:
    source = "{{ bos_token }} {{ style }} {{ messages[0].content }}"
    template = ChatTemplate(source, {"bos_token": "b"})
    given = {"style": {"deep": [1, None]}, "self": 3, "no identifier": 4}
    text = await template.render(DONE, template_arguments=given)
    assert text == "b {'deep': [1, None]} done"


@pytest.mark.parametrize("name", [*sorted(RESERVED), "bos_token"])
async def test_what_the_gateway_gives_to_a_template_no_client_can_give(name: str) -> None:
    template = ChatTemplate("", {"bos_token": "<s>"})
    with pytest.raises(Unprocessable, match=f"chat_template_kwargs has {name}, which") as error:
        await template.render(TALK, template_arguments={"style": 1, name: "x"})
    assert error.value.numbers == {"param": "chat_template_kwargs"}


def test_a_folder_without_files_has_no_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    assert read_chat_template(None) is None


def test_a_template_of_another_kind_is_the_models_fault(tmp_path: Path) -> None:
    for configured in (3, {"a": "b"}, [{"name": "default", "template": 3}]):
        write_json(tmp_path / "tokenizer_config.json", {"chat_template": configured})
        with pytest.raises(BadModel, match="chat_template is a "):
            read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BadModel, match="cannot be read"):
        read_chat_template(tmp_path)


# -- what none can do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
        ("{{ messages.append(3) }}", "SecurityError"),
        ("{{ raise_exception.__globals__ }}{{ cycler.__init__.__globals__.os }}", "Error"),
        ("{% include '/etc/hostname' %}", "TypeError"),
        ("{% for i in range(10**6) %}{% endfor %}", "OverflowError: Range too big"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content.nothing() }}", "UndefinedError"),
        ("{{ messages + 3 }}", "TypeError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ raise_exception('so') }}", "TemplateError: so"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{% for i in range(99999) %}{{ messages[0].content * 9 }}{% endfor %}", "is longer than"),
    ],
)
def test_what_a_template_must_not_do_is_an_error(source: str, words: str) -> None:
    assert words in fault(source)


def test_messages_are_data_and_never_a_template() -> None:
    said = [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}]
    assert rendered("{{ messages[0].content }}", said) == "{{ 7 * 7 }}{% raw %}"


@pytest.mark.slow
async def test_a_template_that_does_not_end_is_given_up_and_the_next_question_answered() -> None:
    forever = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    source = "{% if messages[0].content == 'slow' %}" + forever + "{% endif %}" + CONTENT
    template = ChatTemplate(source, {}, render_s=1.5)
    start_s = time.monotonic()
    with pytest.raises(Unprocessable, match="given up after 1.5 s"):
        await template.render([{"role": "user", "content": "slow"}])
    assert time.monotonic() - start_s < 10
    assert await template.render(DONE) == "done"
    assert template._renderer is not None
    process = template._renderer._process
    assert await template.render(DONE) == "done"
    assert template._renderer._process is process, "one process serves all"
    process.kill()
    process.wait()
    assert await template.render(DONE) == "done"


@pytest.mark.slow
async def test_a_template_cannot_fill_the_memory() -> None:
    template = ChatTemplate("{{ messages[0].content * 10**9 }}", {})
    with pytest.raises(Unprocessable, match="MemoryError") as error:
        await template.render([{"role": "user", "content": "x"}])
    assert error.value.numbers == {"param": "messages"}


@pytest.mark.slow
async def test_the_process_ends_with_the_template() -> None:
    template = ChatTemplate(CONTENT, {})
    assert await template.render(DONE) == "done"
    assert template._renderer is not None
    process = template._renderer._process
    await asyncio.get_running_loop().shutdown_default_executor()  # whose thread may hold it still
    del template
    assert process.poll() is not None


def test_questions_and_answers_are_lines_of_json(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Whatever is in a text, a line is a line."""
    question = {"template": "{{ messages }}\n\u2028\x85.", "variables": {"messages": "a\nb"}}

    class Input:
        buffer = (json.dumps(question).encode() + b"\n", b'{"template": "{%", "variables": {}}\n')

    monkeypatch.setattr("sys.stdin", Input)
    monkeypatch.setattr("resource.setrlimit", lambda kind, bounds: None)
    chat_render.main()
    first, second = capsysbinary.readouterr().out.splitlines()
    assert json.loads(first) == {"text": "a\nb\n\u2028\x85."}
    assert "TemplateSyntaxError" in json.loads(second)["error"]


def told_to(pid: int) -> bytes:
    """The environment that a process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.slow
async def test_the_process_is_told_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESERVE_API_KEY", "open sesame")
    monkeypatch.setenv("HARMLESS", "word")
    template = ChatTemplate(CONTENT, {})
    await template.render(DONE)
    assert template._renderer is not None
    told = told_to(template._renderer._process.pid)
    assert b"HARMLESS=word" in told
    assert b"sesame" not in told
