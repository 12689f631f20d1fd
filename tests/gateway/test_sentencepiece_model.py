"""Folders with `tokenizer.model` alone: what transformers makes of them, flag by flag."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.gateway.text.tokenizer import Tokenizer, open_tokenizer
from tests.gateway.conftest import CORPUS, write_json

OWN = 340  # pieces of the sentencepiece model of `sentencepiece_folder`
ADDED: dict[str, dict[str, Any]] = {
    "340": {"content": "<|turn|>", "special": True},
    "341": {"content": "<left>", "special": False, "normalized": False, "lstrip": True},
    "342": {"content": "<right>", "special": True, "normalized": True, "rstrip": True},
    "343": {"content": "girl", "special": False, "normalized": False, "single_word": True},
    "344": {"content": "<both>", "special": True, "lstrip": True, "rstrip": True},
}
PARTS: list[str] = [
    "the", " ", "  ", "\n", "\t", "girl", "garden", " a", "#", "\u20ac", "\u00e9", "\u2581",
    "<s>", "</s>", "<unk>", "<0x41>", *(each["content"] for each in ADDED.values()),
]  # fmt: skip
TEXTS = st.one_of(
    st.lists(st.sampled_from(PARTS), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
LLAMA = {"tokenizer_class": "LlamaTokenizer"}


def folder_of(model: Path, folder: Path, config: dict[str, Any] | None) -> Path:
    folder.mkdir()
    shutil.copy(model / "tokenizer.model", folder)
    write_json(folder / "config.json", {"model_type": "llama"})
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)
    return folder


def trained(folder: Path, **options: Any) -> Path:
    folder.mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(folder / "tokenizer"),
        num_threads=1,
        minloglevel=2,
        **{"model_type": "bpe", "vocab_size": OWN, "byte_fallback": True, **options},
    )
    return folder


def library(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


# -- transformers ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        {**LLAMA, "legacy": None},
        {**LLAMA, "legacy": True},
        {**LLAMA, "legacy": False, "add_prefix_space": True},
        {**LLAMA, "legacy": True, "add_prefix_space": False},
        {**LLAMA, "legacy": True, "added_tokens_decoder": ADDED},
        {**LLAMA, "legacy": False, "added_tokens_decoder": ADDED},
        {**LLAMA, "add_prefix_space": False, "added_tokens_decoder": ADDED},
        {"legacy": True, "added_tokens_decoder": ADDED},
        {"legacy": False, "added_tokens_decoder": ADDED},
        {},
        None,
    ],
    ids=str,
)
def test_texts_are_the_tokens_that_transformers_makes_and_come_back_as_its_texts(
    config: dict[str, Any] | None, sentencepiece_folder: Path, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = folder_of(sentencepiece_folder, tmp_path / "model", config)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer = open_tokenizer(folder, 0)
    assert tokenizer.vocab_size == len(reference)

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        ids = reference.encode(text, add_special_tokens=False)
        assert tokenizer.encode_bare(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
        assert tokenizer.decode(ids, shows_specials=True) == reference.decode(ids)

    check()


# -- sentencepiece -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"normalization_rule_name": "nmt_nfkc"},
        {"byte_fallback": False, "vocab_size": 90},
        {"model_type": "unigram", "vocab_size": 310},
        {"user_defined_symbols": ["<sep>", "ing", "\u2581\u2581"]},
        {"add_dummy_prefix": False},
    ],
    ids=str,
)
def test_without_a_configuration_texts_are_the_tokens_that_sentencepiece_makes(
    options: dict[str, Any], tmp_path: Path
) -> None:
    folder = trained(tmp_path / "model", **options)
    tokenizer, processor = open_tokenizer(folder, 0), library(folder)
    words = st.sampled_from(
        ["the", "girl", " ", "  ", "<sep>", "ing", "playing", "\ufb01", "\u2460", "\u20ac", "1000"]
    )

    @settings(max_examples=100, deadline=None)
    @given(st.lists(words, max_size=8).map("".join))
    def check(text: str) -> None:
        ids = processor.encode(text)
        assert tokenizer.encode_bare(text) == ids
        if "<unk>" not in map(tokenizer.piece, ids):
            assert tokenizer.decode(ids) == processor.decode(ids)

    check()


# -- ids ---------------------------------------------------------------------------------------


def test_ids_may_be_left_out(sentencepiece_folder: Path, tmp_path: Path) -> None:
    config = {
        **LLAMA,
        "added_tokens_decoder": {
            "400": {"content": "<far>", "special": True},
            "345": {"content": "<near>", "special": False},
        },
    }
    tokenizer = open_tokenizer(folder_of(sentencepiece_folder, tmp_path / "m", config), 0)
    assert tokenizer.vocab_size == 401
    assert tokenizer.encode_bare("<near><far>") == [345, 400]
    assert [tokenizer.piece(i) for i in (345, 400, 350)] == ["<near>", "<far>", ""]
    assert tokenizer.decode([345, 350, 400, 10**6]) == "<near>"
    assert tokenizer.special_ids["<far>"] == 400


def test_an_id_that_was_kept_for_it_is_given_another_name(
    sentencepiece_folder: Path, tmp_path: Path
) -> None:
    was = open_tokenizer(sentencepiece_folder, 0).piece(339)
    config = {**LLAMA, "added_tokens_decoder": {"339": {"content": "[TOOL]", "special": True}}}
    tokenizer = open_tokenizer(folder_of(sentencepiece_folder, tmp_path / "m", config), 0)
    assert tokenizer.encode_bare("[TOOL]") == [339]
    assert (tokenizer.piece(339), tokenizer.vocab_size) == ("[TOOL]", OWN)
    assert tokenizer.token_bytes(339) != was.encode()


def test_tokens_of_the_older_file_and_flags_of_a_role_count(
    sentencepiece_folder: Path, tmp_path: Path
) -> None:
    config = {
        **LLAMA,
        "eos_token": {"content": "<|end|>", "lstrip": True},
        "additional_special_tokens": ["<|more|>"],
    }
    folder = folder_of(sentencepiece_folder, tmp_path / "m", config)
    write_json(folder / "added_tokens.json", {"<word>": 342, "<|more|>": 341, "<|end|>": 340})
    tokenizer = open_tokenizer(folder, 0)
    assert tokenizer.encode_bare("the  <|end|><|more|><word>")[1:] == [340, 341, 342]
    assert [tokenizer.is_special(i) for i in (340, 341, 342)] == [True, True, False]
    assert tokenizer.eos_ids == {2, 340}


def test_a_unigram_model_cannot_leave_ids_out(tmp_path: Path) -> None:
    model = trained(tmp_path / "model", model_type="unigram", vocab_size=310)
    config = {"added_tokens_decoder": {"400": {"content": "<far>", "special": True}}}
    folder = folder_of(model, tmp_path / "m", config)
    with pytest.raises(UnsupportedModel, match="leave ids out"):
        open_tokenizer(folder, 0)


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"\xff" * 100])
def test_what_is_no_model_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(BadModel, match=r"tokenizer\.model cannot be read as a sentencepiece"):
        open_tokenizer(tmp_path, 0)


def test_the_beginning_of_a_prompt_stays_the_models_own(sentencepiece_folder: Path) -> None:
    tokenizer: Tokenizer = open_tokenizer(sentencepiece_folder, 0)
    assert tokenizer.prefix == (1,)
