"""Three kinds of vocabulary behind one face: text to ids, and an id to the bytes that it stands
for.

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

import sentencepiece
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


class JsonVocabulary:
    """`tokenizer.json`."""

    eos_ids: frozenset[int] = frozenset()

    def __init__(self, path: Path) -> None:
        self._encoder = _load_json_tokenizer(path)
        self._encoder.no_truncation()
        self._encoder.no_padding()
        decoder = json.loads(self._encoder.to_str())["decoder"]
        self._to_bytes, self.drops_first_space = _decoding(decoder, path)
        self.size = self._encoder.get_vocab_size()
        added = self._encoder.get_added_tokens_decoder()
        self.specials = frozenset(i for i, token in added.items() if token.special)
        self.prefix, self.suffix = self._template()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._encoder.encode(text, add_special_tokens=False).ids
        return ids

    def token_id(self, piece: str) -> int | None:
        found: int | None = self._encoder.token_to_id(piece)
        return found

    def piece(self, token_id: int) -> str:
        return self._encoder.id_to_token(token_id) or ""

    def token_bytes(self, token_id: int) -> bytes:
        return self._to_bytes(self.piece(token_id))

    def _template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What its post-processor puts before and after a text."""
        whole = self._encoder.encode("a").ids
        plain = self.encode("a")
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return tuple(whole[:start]), tuple(whole[start + len(plain) :])
        return (), ()


class SentencePieceVocabulary:
    """`tokenizer.model`, with the tokens that the folder's JSON files add to it.

    Text after a special token gets a space of its own, as the reference's 'legacy' mode and older
    `tokenizer.json` do.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...] = ()

    def __init__(
        self, path: Path, added: Mapping[str, int], added_specials: frozenset[int]
    ) -> None:
        self._model = _load_sentencepiece(path)
        own = self._model.get_piece_size()
        self._own_size = own
        self._added = {i: piece for piece, i in added.items() if i >= own}
        self.size = max([own - 1, *self._added]) + 1
        controls = [i for i in range(own) if self._model.is_control(i)]
        unknown = self._model.unk_id()
        self.specials = frozenset([*controls, unknown, *added_specials])
        self.eos_ids = frozenset({self._model.eos_id()} - {-1})
        self.prefix = (self._model.bos_id(),) if self._model.bos_id() >= 0 else ()
        self.drops_first_space = self._drops_first_space()
        self._ids = {self._model.id_to_piece(i): i for i in controls}
        self._ids |= {piece: i for i, piece in self._added.items()}
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._spelt_out = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._spelt_out.split(text) if self._ids else [text]:
            known = self._ids.get(part)
            ids += self._model.encode(part) if known is None else [known]
        return ids

    def token_id(self, piece: str) -> int | None:
        if piece in self._ids:
            return self._ids[piece]
        found: int = self._model.piece_to_id(piece)
        return found if self._model.id_to_piece(found) == piece else None

    def piece(self, token_id: int) -> str:
        if token_id < self._own_size:
            piece: str = self._model.id_to_piece(token_id)
            return piece
        return self._added.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes:
        piece = self.piece(token_id)
        if token_id >= self._own_size:
            return piece.encode()
        if self._model.is_byte(token_id):
            return _byte_fallback(piece)
        return piece.replace(SPACE, " ").encode()

    def _drops_first_space(self) -> bool:
        """Asked of the model itself: whether a text that begins with a space decodes to one that
        does.
        """
        for i in range(self._own_size):
            piece = self._model.id_to_piece(i)
            if piece.startswith(SPACE) and len(piece) > 1:
                return not self._model.decode([i]).startswith(" ")
        return False


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
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  # a library's border: it raises nothing narrower
        raise BadModel(f"{path} cannot be read as a tokenizer: {error}") from None


def _load_sentencepiece(path: Path) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise BadModel(f"{path} cannot be read as a sentencepiece model: {error}") from None


def _decoding(decoder: Mapping[str, Any] | None, path: Path) -> tuple[Callable[[str], bytes], bool]:
    """How a piece becomes bytes, and whether the text's first space is dropped."""
    steps = _steps(decoder)
    kinds = [step["type"] for step in steps]
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
