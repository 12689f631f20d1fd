"""Kinds of vocabulary behind one face: text to ids, and an id to the bytes that it stands for.

Decoding here is per token: every id means the same bytes wherever it stands, so a stream of tokens
decodes at constant cost and to exactly the text that all of them together give. The libraries
decode whole lists only; they are asked to encode, and what an id means is read from their tables. A
decoder that cannot be said per token is refused by name.

Where a model emits bytes that are no UTF-8, the libraries differ among themselves in how many
U+FFFD they write; here it is one for each maximal wrong part, as Unicode recommends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from edgeserve.errors import BadModel, UnsupportedModel

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # sentencepiece's visible space
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary(Protocol):
    """`prefix` and `suffix` are the ids that its own files put around a text."""

    size: int
    specials: frozenset[int]
    eos_ids: frozenset[int]
    """What its own files call the end of a text."""
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    drops_first_space: bool
    """Whether the first space of a text was added by encoding and is dropped again by decoding."""

    def encode(self, text: str) -> list[int]:
        """Without prefix and suffix. Special tokens that are spelt out in the text become their
        ids.
        """
        ...

    def token_id(self, piece: str) -> int | None: ...

    def piece(self, token_id: int) -> str:
        """As the vocabulary spells it; empty for an id beyond it, which padded embeddings have."""
        ...

    def token_bytes(self, token_id: int) -> bytes: ...


class LibraryVocabulary:
    """A tokenizer of the library `tokenizers`. `path` is the file that it was read from, and
    `prefix` goes before what its post-processor says.
    """

    def __init__(
        self,
        encoder: tokenizers.Tokenizer,
        path: Path,
        *,
        prefix: tuple[int, ...] = (),
        eos_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._encoder = encoder
        self._encoder.no_truncation()
        self._encoder.no_padding()
        document = json.loads(self._encoder.to_str())
        self._to_bytes, self.drops_first_space = _decoding(document["decoder"], path)
        self.size = max(self._encoder.get_vocab().values(), default=-1) + 1
        added = self._encoder.get_added_tokens_decoder()
        self._own_texts = _own_texts(document, {i: each.content for i, each in added.items()})
        self.specials = frozenset(i for i, token in added.items() if token.special)
        self.eos_ids = eos_ids
        before, self.suffix = self._template()
        self.prefix = prefix or before

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, piece: str) -> int | None:
        found: int | None = self._encoder.token_to_id(piece)
        return found

    def piece(self, token_id: int) -> str:
        return self._encoder.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        own = self._own_texts.get(token_id)
        return self._to_bytes(self.piece(token_id)) if own is None else own

    def _template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What its post-processor puts before and after a text."""
        whole = self._encoder.encode("a").ids
        plain = self.encode("a")
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start]), tuple(whole[start + len(plain) :])
        return (), ()


def read_json_vocabulary(path: Path) -> LibraryVocabulary:
    """`tokenizer.json`. Raises BadModel."""
    return LibraryVocabulary(_load_json_tokenizer(path), path)


class ByteVocabulary:
    """A stand-in for shapes with random weights, which have no tokenizer: not what any model was
    trained with.

    The first 256 ids are the bytes of UTF-8; an id beyond shows as its number, such as `<4711>`. A
    vocabulary below 256 wraps around, so that even the smallest shape can be sent any text.
    """

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    drops_first_space = False
    specials: frozenset[int] = frozenset()
    eos_ids: frozenset[int] = frozenset()

    def __init__(self, size: int) -> None:
        self.size = size

    def encode(self, text: str) -> list[int]:
        return [byte % self.size for byte in text.encode()]

    def token_id(self, piece: str) -> int | None:  # noqa: ARG002  # nothing is named by its text
        return None

    def piece(self, token_id: int) -> str:
        return f"<0x{token_id:02X}>" if token_id < 256 else f"<{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else self.piece(token_id).encode()


def _load_json_tokenizer(path: Path) -> tokenizers.Tokenizer:
    try:
        encoder = tokenizers.Tokenizer.from_file(str(path))
        document = json.loads(path.read_bytes())
        added = document.get("added_tokens") or []
        if all(encoder.token_to_id(each["content"]) == each["id"] for each in added):
            return encoder
        return tokenizers.Tokenizer.from_str(json.dumps(_with_their_ids(document)))
    except Exception as error:  # noqa: BLE001  # a library's border: it raises nothing narrower
        raise BadModel(f"{path} cannot be read as a tokenizer: {error}") from None


def _with_their_ids(document: dict[str, Any]) -> dict[str, Any]:
    """The library numbers added tokens one after the other, and leaves no id out as files may. It
    takes the number of one that is in the vocabulary.
    """
    vocab = document["model"]["vocab"]
    if isinstance(vocab, dict):
        named = {each["content"]: each["id"] for each in document["added_tokens"]}
        document["model"]["vocab"] = {**vocab, **named}
    return document


def _own_texts(document: Mapping[str, Any], added: Mapping[int, str]) -> dict[int, bytes]:
    """Added tokens stand for the text that they were found as. Where letters stand for bytes,
    theirs do not, even if all of them could.

    One that is also put together of bytes is these, if they make a text, or if it is one byte of a
    longer character.
    """
    if _kinds(document["decoder"]) != ["ByteLevel"]:
        return {}
    texts = {i: content.encode() for i, content in added.items()}
    bytes_of = {i: _byte_level(content) for i, content in added.items()}
    doubtful = [
        i for i, each in bytes_of.items() if each != texts[i] and (_is_text(each) or each in _PARTS)
    ]
    made = _made_of_bytes(document["model"], {added[i] for i in doubtful})
    return {i: text for i, text in texts.items() if added[i] not in made}


def _made_of_bytes(model: Mapping[str, Any], pieces: set[str]) -> set[str]:
    """Those that are letters of the vocabulary, or that merges make."""
    if not pieces:
        return set()
    merges = (m.split(" ") if isinstance(m, str) else m for m in model.get("merges", ()))
    merged = {left + right for left, right in merges}
    return {
        each for each in pieces if each in merged or (len(each) == 1 and each in model["vocab"])
    }


def _is_text(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


_PARTS = frozenset(bytes([byte]) for byte in (*range(0x80, 0xC0), *range(0xC2, 0xF5)))
"""Single bytes that are a part of some character."""


def _decoding(decoder: Mapping[str, Any] | None, path: Path) -> tuple[Callable[[str], bytes], bool]:
    """How a piece becomes bytes, and whether the text's first space is dropped."""
    steps, kinds = _steps(decoder), _kinds(decoder)
    if kinds == ["ByteLevel"]:
        return _byte_level, False
    known = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
    if not steps or not set(kinds) <= known or not all(map(_is_per_token, steps)):
        raise UnsupportedModel(
            f"{path} decodes with {' + '.join(kinds) or 'nothing'}; known are ByteLevel, "
            "Metaspace, and Replace + ByteFallback + Fuse + Strip as Llama has them; add "
            "the model's tokenizer.model, if there is one"
        )
    replacing = ("Replace", "Metaspace")
    replacements = [_replacement(step) for step in steps if step["type"] in replacing]
    has_bytes = "ByteFallback" in kinds

    def to_bytes(piece: str) -> bytes:
        if has_bytes and _BYTE_PIECE.fullmatch(piece):
            return _byte_fallback(piece)
        for old, new in replacements:
            piece = piece.replace(old, new)
        return piece.encode()

    return to_bytes, any(map(_drops_space, steps))


def _kinds(decoder: Mapping[str, Any] | None) -> list[str]:
    return [step["type"] for step in _steps(decoder)]


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The decoders that do the work, in order."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for each in decoder["decoders"] for step in _steps(each)]
    return [decoder]


def _is_per_token(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    if step["type"] == "Strip":
        return bool(step["content"] == " " and step["start"] <= 1 and step["stop"] == 0)
    return True


def _replacement(step: Mapping[str, Any]) -> tuple[str, str]:
    if step["type"] == "Metaspace":
        return step["replacement"], " "
    return step["pattern"]["String"], step["content"]


def _drops_space(step: Mapping[str, Any]) -> bool:
    if step["type"] == "Strip":
        return bool(step["start"] == 1)
    return bool(step["type"] == "Metaspace") and step.get("prepend_scheme", "always") != "never"


def _byte_fallback(piece: str) -> bytes:
    return bytes([int(piece[3:5], 16)])


def _byte_level(piece: str) -> bytes:
    """A piece whose letters stand for bytes. One with any other letter was added, and is its own
    text.
    """
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)
    except KeyError:
        return piece.encode()


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: a printable byte is its Latin-1 letter, the other 68 are letters from
    U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()
