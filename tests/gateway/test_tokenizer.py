"""Text to tokens and back: three kinds of folders, and the stand-in for shapes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.gateway.text.tokenizer import Detokenizer, Tokenizer, open_tokenizer

KINDS = ["byte_level", "llama", "sentencepiece"]
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TEXT = st.text(
    st.one_of(st.sampled_from("the girl  \n\t"), st.characters(exclude_categories=["Cs"])),
    max_size=24,
)


def library_decode(folder: Path, ids: list[int], *, skips_specials: bool = True) -> str:
    """The text according to the library that the files are made for."""
    if (folder / "tokenizer.json").exists():
        library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return library.decode(ids, skip_special_tokens=skips_specials)
    if not skips_specials:  # sentencepiece has none of its own to show
        return "<s> the girl</s>" if ids[0] == 1 else ""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return str(processor.decode(ids))


def piecewise(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> str:
    detokenizer = Detokenizer(tokenizer, prompt or [])
    return "".join(map(detokenizer.push, ids)) + detokenizer.finish()


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """An empty folder to put files into."""
    return tmp_path / "changed"


def copy(source: Path, target: Path, **config: Any) -> Path:
    """The folder with another tokenizer_config.json."""
    shutil.copytree(source, target)
    (target / "tokenizer_config.json").write_text(json.dumps(config))
    return target


# -- detokenizing -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_piece_by_piece_as_the_library_decodes_it_at_once(
    kind: str, folders: dict[str, Path]
) -> None:
    folder = folders[kind]
    tokenizer = open_tokenizer(folder, 0)

    @settings(max_examples=60, deadline=None)
    @given(TEXT)
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        assert piecewise(tokenizer, ids) == tokenizer.decode(ids) == library_decode(folder, ids)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_give_the_same_text_piece_by_piece_as_at_once(
    kind: str, folders: dict[str, Path]
) -> None:
    folder = folders[kind]
    tokenizer = open_tokenizer(folder, 0)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=12))
    def check(ids: list[int]) -> None:
        text = tokenizer.decode(ids)
        assert piecewise(tokenizer, ids) == text
        # The first space of a text is dropped, but not if it is a byte: no encoder writes it so.
        own = [i for i in ids if i < 340 and not tokenizer.is_special(i)]
        own = [i for i in own if tokenizer.piece(i) != "<0x20>"]
        if len(own) == len(ids) and REPLACEMENT not in (library := library_decode(folder, ids)):
            assert text == library  # where there is no wrong byte, there is only one answer

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_no_piece_ends_inside_a_character(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = open_tokenizer(folders[kind], 0)
    text = "a\N{EURO SIGN}b\N{GRINNING FACE}\N{COMBINING ACUTE ACCENT}"
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(i) for i in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert len(pieces) > len(text), "some characters take several tokens"
    assert not any(REPLACEMENT in piece for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_half_a_character_at_the_end_shows_as_one_replacement(
    kind: str, folders: dict[str, Path]
) -> None:
    tokenizer = open_tokenizer(folders[kind], 0)
    ids = tokenizer.encode("a\N{GRINNING FACE}")
    assert piecewise(tokenizer, ids[:-1]) == "a" + REPLACEMENT


@pytest.mark.parametrize("kind", ["llama", "sentencepiece"])
def test_an_answer_keeps_the_space_between_it_and_the_prompt(
    kind: str, folders: dict[str, Path]
) -> None:
    tokenizer = open_tokenizer(folders[kind], 0)
    prompt, answer = tokenizer.encode("the"), tokenizer.encode("girl")[1:]
    assert piecewise(tokenizer, answer, prompt) == " girl"
    assert piecewise(tokenizer, answer) == "girl"
    only_special = prompt[:1]
    assert piecewise(tokenizer, answer, only_special) == "girl"


def test_special_tokens_are_no_text(folder: Path) -> None:
    tokenizer = open_tokenizer(folder, 0)
    ids = tokenizer.encode("the")
    assert piecewise(tokenizer, [1, *ids, 2, 0]) == "the"


def test_an_id_beyond_the_vocabulary_is_no_text(folder: Path) -> None:
    tokenizer = open_tokenizer(folder, 0)
    beyond = tokenizer.vocab_size
    assert tokenizer.piece(beyond) == ""
    assert piecewise(tokenizer, [beyond]) == ""


def test_each_token_costs_the_same_however_many_came_before() -> None:
    tokenizer = CountingTokenizer()
    detokenizer = Detokenizer(tokenizer)
    for _ in range(500):
        detokenizer.push(97)
    assert tokenizer.decoded == 500


class CountingTokenizer(Tokenizer):
    def __init__(self) -> None:
        stand_in = open_tokenizer(None, 300)
        super().__init__(stand_in._vocabulary)
        self.decoded = 0

    def token_bytes(self, token_id: int) -> bytes:
        self.decoded += 1
        return super().token_bytes(token_id)


# -- added tokens ------------------------------------------------------------------------------


def with_added(folder: Path, target: Path, **added: int) -> Path:
    """The folder with more added tokens in its tokenizer.json, as files have them: by number."""
    shutil.copytree(folder, target)
    document = json.loads((target / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    document["added_tokens"] += [{"id": i, "content": c, **flags} for c, i in added.items()]
    (target / "tokenizer.json").write_text(json.dumps(document))
    return target


@pytest.mark.parametrize("gap", [0, 3])
def test_an_added_token_whose_letters_could_stand_for_bytes_is_its_own_text(
    gap: int, byte_level_folder: Path, changed: Path
) -> None:
    size = open_tokenizer(byte_level_folder, 0).vocab_size
    words = ["na\u00efve", "caf\u00e9", "\u0120zzz", "\u00c3\u00a9", "plain"]
    added = {word: size + gap + i for i, word in enumerate(words)}
    added["\u00f5"] = 180  # the letter of a byte that is in no character
    tokenizer = open_tokenizer(with_added(byte_level_folder, changed, **added), 0)
    for word, i in added.items():
        assert tokenizer.encode_bare(word) == [i], word
        assert tokenizer.decode([i]) == piecewise(tokenizer, [i]) == word
    text = "a na\u00efve caf\u00e9 \u00f5\u00f5 \u9999\u00e9"
    assert piecewise(tokenizer, tokenizer.encode(text)) == text


@pytest.mark.parametrize("word", ["\u00e9", "\u0120the"])
def test_an_added_token_that_may_also_come_of_bytes_is_these(
    word: str, byte_level_folder: Path, changed: Path
) -> None:
    """Or no Chinese character that has that byte in it could be written."""
    own = open_tokenizer(byte_level_folder, 0)
    i = own._vocabulary.token_id(word)
    assert i is not None
    tokenizer = open_tokenizer(with_added(byte_level_folder, changed, **{word: i}), 0)
    assert tokenizer.token_bytes(i) == own.token_bytes(i)
    text = "of the \u9999"
    assert piecewise(tokenizer, tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", ["byte_level", "llama"])
def test_ids_may_be_left_out_and_the_size_is_the_largest_and_one(
    kind: str, folders: dict[str, Path], changed: Path
) -> None:
    size = open_tokenizer(folders[kind], 0).vocab_size
    added = {"<near>": size + 5, "<far>": size + 40}
    tokenizer = open_tokenizer(with_added(folders[kind], changed, **added), 0)
    assert tokenizer.vocab_size == size + 41
    assert [i for i in tokenizer.encode_bare("<far><near>") if i >= size] == [size + 40, size + 5]
    assert tokenizer.decode([size + 5, size + 6, size + 40]) == "<near><far>"
    assert tokenizer.piece(size + 6) == ""


def test_a_vocabulary_may_leave_ids_out(tmp_path: Path) -> None:
    vocab = {"a": 0, "b": 7}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path, 0).vocab_size == 8


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_can_be_shown(kind: str, folders: dict[str, Path]) -> None:
    tokenizer = open_tokenizer(folders[kind], 0)
    ids = tokenizer.encode("the girl</s>")
    library = library_decode(folders[kind], ids, skips_specials=False)
    assert tokenizer.decode(ids, shows_specials=True) == library
    assert "<s>" in library
    assert library.endswith("</s>")
    assert tokenizer.decode(ids) == "the girl"


# -- encoding ---------------------------------------------------------------------------------


def test_the_token_that_begins_every_prompt_is_there_once(folder: Path) -> None:
    tokenizer = open_tokenizer(folder, 0)
    ids = tokenizer.encode("the girl")
    assert ids[0] == 1
    assert ids.count(1) == 1
    assert tokenizer.is_special(1)
    assert tokenizer.piece(1) == "<s>"


def test_the_end_of_text_is_read_as_text_or_as_an_object(folder: Path) -> None:
    tokenizer = open_tokenizer(folder, 0)
    assert tokenizer.eos_ids == {2}
    assert tokenizer.is_special(2)


@pytest.mark.parametrize(
    ("config", "older", "ends"),
    [
        ({"eos_token": "</s>"}, None, {2}),
        ({"eos_token": {"content": "</s>", "special": True}}, None, {2}),
        ({}, {"eos_token": "</s>"}, {2}),
        ({"eos_token": None}, {"eos_token": {"content": "</s>"}}, {2}),
        ({"eos_token": "</s>"}, {"eos_token": "<s>"}, {1, 2}),
        ({"eos_token": "nothing of the kind"}, {"eos_token": 3}, set()),
        ({}, None, set()),
    ],
)
def test_the_end_of_text_is_named_in_either_file(
    config: dict[str, Any],
    older: dict[str, Any] | None,
    ends: set[int],
    byte_level_folder: Path,
    changed: Path,
) -> None:
    copy(byte_level_folder, changed, **config)
    if older is not None:
        (changed / "special_tokens_map.json").write_text(json.dumps(older))
    assert open_tokenizer(changed, 0).eos_ids == ends


def test_a_sentencepiece_model_names_its_end_itself(
    sentencepiece_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(sentencepiece_folder / "tokenizer.model", tmp_path)
    assert open_tokenizer(tmp_path, 0).eos_ids == {2}


def test_encoding_is_the_librarys(sentencepiece_folder: Path) -> None:
    tokenizer = open_tokenizer(sentencepiece_folder, 0)
    model = sentencepiece_folder / "tokenizer.model"
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    assert tokenizer.encode("the dog  went") == [1, *processor.encode("the dog  went")]


@pytest.mark.parametrize("kind", KINDS)
def test_add_bos_token_goes_before_what_the_files_say(
    kind: str, folders: dict[str, Path], changed: Path
) -> None:
    without = copy(folders[kind], changed, bos_token="<s>", add_bos_token=False)
    assert open_tokenizer(without, 0).encode("the")[0] != 1


def test_with_no_word_in_the_configuration_the_template_of_tokenizer_json_counts(
    byte_level_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    with_template = open_tokenizer(copy(byte_level_folder, tmp_path / "a"), 0)
    without = open_tokenizer(copy(llama_folder, tmp_path / "b"), 0)
    assert with_template.encode("the")[0] == 1
    assert without.encode("the")[0] != 1


def test_add_eos_token_ends_every_prompt(folder: Path, changed: Path) -> None:
    both = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    ids = open_tokenizer(copy(folder, changed, **both), 0).encode("the")
    assert (ids[0], ids[-1]) == (1, 2)


def test_a_bos_token_that_nobody_named_is_refused(llama_folder: Path, changed: Path) -> None:
    with pytest.raises(BadModel, match="bos_token is to be added .* name one"):
        open_tokenizer(copy(llama_folder, changed, add_bos_token=True), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_spelt_out_in_the_text_are_tokens(
    kind: str, folders: dict[str, Path]
) -> None:
    ids = open_tokenizer(folders[kind], 0).encode("the</s>dog")
    assert ids.count(2) == 1
    assert ids[-1] != 2


def test_tokens_added_to_a_sentencepiece_model_are_known(sentencepiece_folder: Path) -> None:
    tokenizer = open_tokenizer(sentencepiece_folder, 0)
    ids = tokenizer.encode("the<|turn|>dog<word>")
    assert (ids.count(340), ids[-1]) == (1, 341)
    assert tokenizer.is_special(340)
    assert not tokenizer.is_special(341)
    assert piecewise(tokenizer, ids) == "the dog<word>"
    assert tokenizer.vocab_size == 342


def test_truncation_and_padding_in_the_file_are_ignored(
    byte_level_folder: Path, changed: Path
) -> None:
    folder = copy(byte_level_folder, changed)
    path = str(folder / "tokenizer.json")
    file = tokenizers.Tokenizer.from_file(path)
    file.enable_truncation(4)
    file.enable_padding(length=40)
    file.save(path)
    ids = open_tokenizer(folder, 0).encode("numbers: 1 2 3 10 100 7")
    assert 8 < len(ids) < 40
    assert piecewise(open_tokenizer(folder, 0), ids) == "numbers: 1 2 3 10 100 7"


# -- files ------------------------------------------------------------------------------------


def test_a_folder_with_neither_file_says_which_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(BadModel) as error:
        open_tokenizer(tmp_path, 0)
    for part in (str(tmp_path), "tokenizer.json", "tokenizer.model"):
        assert part in str(error.value)


def test_of_both_files_tokenizer_json_is_read(
    byte_level_folder: Path, sentencepiece_folder: Path, changed: Path
) -> None:
    folder = copy(byte_level_folder, changed)
    shutil.copy(sentencepiece_folder / "tokenizer.model", folder)
    assert open_tokenizer(folder, 0).vocab_size == open_tokenizer(byte_level_folder, 0).vocab_size


def test_of_both_files_tokenizer_model_is_read_if_tokenizer_json_cannot_be(
    sentencepiece_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "both"
    shutil.copytree(sentencepiece_folder, folder)
    (folder / "tokenizer.json").write_text('{"model": "of another version"}')
    with caplog.at_level(logging.WARNING):
        tokenizer = open_tokenizer(folder, 0)
    assert tokenizer.vocab_size == 342
    assert "tokenizer.json cannot be read as a tokenizer" in caplog.text


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_file_that_is_no_tokenizer_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("nothing of the kind")
    with pytest.raises(BadModel, match=f"{name} cannot be read as a"):
        open_tokenizer(tmp_path, 0)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "cannot be read as JSON"), ("[]", "holds a list, not an object")]
)
def test_a_configuration_that_is_no_object_is_named(
    text: str, said: str, llama_folder: Path, changed: Path
) -> None:
    folder = copy(llama_folder, changed)
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(BadModel, match=rf"tokenizer_config\.json {said}"):
        open_tokenizer(folder, 0)


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (None, "nothing"),
        (decoders.WordPiece(), "WordPiece"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip("x", 1, 0)]), "Fuse \\+ Strip"),
    ],
)
def test_a_decoder_that_no_test_covers_is_refused_by_name(
    decoder: Any, named: str, tmp_path: Path
) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UnsupportedModel, match=f"decodes with {named}; known are ByteLevel"):
        open_tokenizer(tmp_path, 0)


@pytest.mark.parametrize(("scheme", "text"), [("always", "a b"), ("never", " a b")])
def test_a_metaspace_decoder_drops_the_first_space_if_it_was_prepended(
    scheme: str, text: str, tmp_path: Path
) -> None:
    pieces = ["\N{LOWER ONE EIGHTH BLOCK}a", "\N{LOWER ONE EIGHTH BLOCK}b"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab=vocab, unk_token=pieces[0]))
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.decode([0, 1]) == text
    assert piecewise(open_tokenizer(tmp_path, 0), [0, 1]) == text


# -- the stand-in -----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
def test_the_stand_in_reads_bytes(text: str) -> None:
    tokenizer = open_tokenizer(None, 1000)
    assert piecewise(tokenizer, tokenizer.encode(text)) == text


def test_the_stand_in_shows_every_other_id_as_its_number() -> None:
    tokenizer = open_tokenizer(None, 32000)
    assert piecewise(tokenizer, [256, 31999]) == "<256><31999>"
    assert (tokenizer.vocab_size, tokenizer.eos_ids) == (32000, frozenset())
    assert (tokenizer.piece(10), tokenizer.piece(300)) == ("<0x0A>", "<300>")


def test_the_stand_in_never_leaves_the_smallest_vocabulary() -> None:
    ids = open_tokenizer(None, 50).encode("zebra\N{EURO SIGN}")
    assert all(0 <= i < 50 for i in ids)
