"""The demo model is what a newcomer meets first: its folder must be whole, small and consistent.

Nothing is trained here and no weight is read but for its shape: whether the model speaks well is
judged by people, whether the package computes it rightly by the tests of the model.
"""

from __future__ import annotations

import importlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from sentencepiece import SentencePieceProcessor

from edgeserve.gateway.text.tokenizer import read_tokenizer

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "edgeserve" / "demo"
WEIGHTS_BYTES_MAX = 8_000_000  # it travels in the wheel
FILES = (
    "MODEL_CARD.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.model",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[None]:
    """The generators can be imported: scripts are no package."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def demo_text(scripts: None) -> ModuleType:
    return importlib.import_module("demo_text")


@pytest.fixture(scope="module")
def demo_chat(scripts: None) -> ModuleType:
    return importlib.import_module("demo_chat")


@pytest.fixture(scope="module")
def tokenizer() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))


def read_json(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DEMO / name).read_text())
    return content


def header() -> dict[str, Any]:
    """A safetensors file opens with the length of a JSON text, and that text."""
    with (DEMO / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        content: dict[str, Any] = json.loads(file.read(length))
    return content


def implied_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    """Every tensor that a Llama of this configuration has."""
    hidden, ffn, vocab = (
        config[name] for name in ("hidden_size", "intermediate_size", "vocab_size")
    )
    head_dim = hidden // config["num_attention_heads"]
    kv_hidden = config["num_key_value_heads"] * head_dim
    shapes = {
        "model.embed_tokens.weight": [vocab, hidden],
        "model.norm.weight": [hidden],
        "lm_head.weight": [vocab, hidden],
    }
    for layer in range(config["num_hidden_layers"]):
        one_layer = {
            "input_layernorm": [hidden],
            "self_attn.q_proj": [hidden, hidden],
            "self_attn.k_proj": [kv_hidden, hidden],
            "self_attn.v_proj": [kv_hidden, hidden],
            "self_attn.o_proj": [hidden, hidden],
            "post_attention_layernorm": [hidden],
            "mlp.gate_proj": [ffn, hidden],
            "mlp.up_proj": [ffn, hidden],
            "mlp.down_proj": [hidden, ffn],
        }
        shapes |= {f"model.layers.{layer}.{k}.weight": shape for k, shape in one_layer.items()}
    return shapes


# -- the text ------------------------------------------------------------------------------------


def test_the_same_seed_tells_the_same_stories(demo_text: ModuleType) -> None:
    assert list(demo_text.stories(50, 7)) == list(demo_text.stories(50, 7))
    assert list(demo_text.stories(50, 7)) != list(demo_text.stories(50, 8))


def test_a_thousand_texts_hold_thousands_of_sentences_and_hundreds_of_openings(
    demo_text: ModuleType,
) -> None:
    texts = list(demo_text.stories(1000, 0))
    sentences = {each for text in texts for each in re.split(r"(?<=[.!?]) ", text)}
    openings = {" ".join(text.split()[:4]) for text in texts}
    assert len(sentences) > 4000
    assert len(openings) > 300
    assert {"Once upon a time,", "In a small village,"} <= openings


def test_no_mark_of_the_grammar_is_left_in_a_text(demo_text: ModuleType) -> None:
    marks = re.compile(r"[][{}|/_]|  | a [aeiou]|(^|\. )[a-z]")
    found = [text for text in demo_text.stories(1000, 1) if marks.search(text)]
    assert found == []


def test_every_text_ends_as_a_sentence_does(demo_text: ModuleType) -> None:
    endings = {text.rstrip('"')[-1] for text in demo_text.stories(1000, 2)}
    assert endings <= set(".!?")


# -- the conversations ---------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_conversations(demo_chat: ModuleType) -> None:
    assert list(demo_chat.chats(50, 7)) == list(demo_chat.chats(50, 7))
    assert list(demo_chat.chats(50, 7)) != list(demo_chat.chats(50, 8))


@pytest.mark.parametrize("is_easy", [False, True])
def test_calls_name_a_tool_and_take_their_values_from_the_question(
    demo_chat: ModuleType, *, is_easy: bool
) -> None:
    calls = 0
    for chat in demo_chat.chats(400, 1, is_easy=is_easy):
        parameters = {t["function"]["name"]: t["function"]["parameters"] for t in chat.tools}
        for asked, said in pairwise(chat.messages):
            for call in said.get("tool_calls", ()):
                calls += 1
                arguments = call["function"]["arguments"]
                jsonschema.validate(arguments, parameters[call["function"]["name"]])
                assert all(str(value) in asked["content"] for value in arguments.values())
    assert calls > 200


def test_answers_quote_what_the_tools_said(demo_chat: ModuleType) -> None:
    results = 0
    for chat in demo_chat.chats(400, 2):
        for told, said in pairwise(chat.messages):
            if told["role"] == "tool" and said["role"] == "assistant":
                results += 1
                assert told["content"].rstrip(".") in said["content"]
    assert results > 200


def test_names_of_tools_hardly_ever_come_twice(demo_chat: ModuleType) -> None:
    """What cannot be remembered has to be copied."""
    names = [t["function"]["name"] for c in demo_chat.chats(2000, 3) for t in c.tools]
    assert len(set(names)) > 0.6 * len(names)


# -- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_the_demo_folder_has(name: str) -> None:
    assert (DEMO / name).stat().st_size > 0


def test_the_weights_are_small_enough_to_ship() -> None:
    assert (DEMO / "model.safetensors").stat().st_size <= WEIGHTS_BYTES_MAX


def test_the_weights_are_exactly_those_that_the_configuration_implies() -> None:
    tensors = {name: entry for name, entry in header().items() if name != "__metadata__"}
    shapes = {name: entry["shape"] for name, entry in tensors.items()}
    assert shapes == implied_shapes(read_json("config.json"))


def test_the_weights_are_of_the_type_that_the_configuration_names() -> None:
    types = {entry["dtype"] for name, entry in header().items() if name != "__metadata__"}
    assert types == {"F16"}
    assert read_json("config.json")["torch_dtype"] == "float16"


def test_the_model_card_names_the_command_and_the_loss() -> None:
    card = (DEMO / "MODEL_CARD.md").read_text()
    assert re.search(r"python scripts/train_demo\.py --steps \d+ --seed \d+", card)
    assert len(re.findall(r"loss .*\| \d\.\d{3} nats per token", card)) == 3


# -- the tokenizer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Once upon a time, there was a little fox.",
        "  two  spaces, and a line\nbreak\tand a tab ",
        "żółw, naïve, 東京, привет, 🦊👩‍👩‍👧",
        "def f(x): return {x: [1_000]}",
        "",
    ],
)
def test_any_text_comes_back_from_its_tokens(tokenizer: SentencePieceProcessor, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", ["Paris", "Tokyo", "Wollongong", "AAPL", "McX"])
def test_a_name_is_the_same_pieces_in_a_question_and_in_a_call(
    tokenizer: SentencePieceProcessor, name: str
) -> None:
    pieces = tokenizer.encode(name, out_type=str)[1:]
    for text in (f"What is the weather in {name}?", f'{{"city": "{name}"}}'):
        said = tokenizer.encode(text, out_type=str)
        assert "".join(pieces) == name
        assert any(said[i : i + len(pieces)] == pieces for i in range(len(said)))


@pytest.mark.parametrize("tag", ["<tool_call>", "</tool_call>"])
def test_a_tag_is_one_token_that_is_text(tokenizer: SentencePieceProcessor, tag: str) -> None:
    token = tokenizer.piece_to_id(tag)
    assert tokenizer.encode(f"a{tag}b").count(token) == 1
    assert not tokenizer.is_control(token)
    assert tokenizer.decode([token]) == tag


def test_a_prompt_is_the_tokens_that_were_trained_on(tokenizer: SentencePieceProcessor) -> None:
    """Sentencepiece encodes what stands between two ends; it knows nothing of these."""
    call = 'User: Paris?\nAssistant:\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    told = "\nTool: yes\nAssistant:\n"
    trained = [1, *tokenizer.encode(call), 2, *tokenizer.encode(told)]
    assert read_tokenizer(DEMO).encode_bare(f"<s>{call}</s>{told}") == trained


def test_an_unknown_character_becomes_bytes_and_never_the_unknown_token(
    tokenizer: SentencePieceProcessor,
) -> None:
    fox = tokenizer.encode("🦊", out_type=str)
    assert fox[-4:] == ["<0xF0>", "<0x9F>", "<0xA6>", "<0x8A>"]
    assert tokenizer.unk_id() not in tokenizer.encode("🦊")


def test_configurations_and_tokenizer_agree_where_a_text_begins_and_ends(
    tokenizer: SentencePieceProcessor,
) -> None:
    names = read_json("tokenizer_config.json")
    for config in (read_json("config.json"), read_json("generation_config.json")):
        assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)
    assert (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id()) == (1, 2, 0)
    assert tokenizer.id_to_piece([1, 2, 0]) == [
        names["bos_token"],
        names["eos_token"],
        names["unk_token"],
    ]
    assert (names["add_bos_token"], names["add_eos_token"]) == (True, False)


def test_the_tokenizer_has_as_many_pieces_as_the_model_has_rows(
    tokenizer: SentencePieceProcessor,
) -> None:
    assert tokenizer.vocab_size() == read_json("config.json")["vocab_size"]


def test_what_follows_a_special_token_is_encoded_as_it_was_in_training() -> None:
    """By itself, with a space of its own before it: that is what `legacy` says."""
    assert read_json("tokenizer_config.json")["legacy"] is True
