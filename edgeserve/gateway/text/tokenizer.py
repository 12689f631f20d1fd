"""Text to tokens and back, from the files of a model folder.

`Tokenizer` knows which ids frame a prompt and which mean nothing to a reader; `Detokenizer` turns
one request's tokens into text as they come. What this module refuses to know: chat templates, and
anything about requests.
"""

from __future__ import annotations

import codecs
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgeserve.errors import BadModel
from edgeserve.gateway.text.sentencepiece_model import Added, read_sentencepiece
from edgeserve.gateway.text.tool_call import TAGS
from edgeserve.gateway.text.vocabulary import ByteVocabulary, Vocabulary, read_json_vocabulary

_log = logging.getLogger(__name__)


def open_tokenizer(folder: Path | None, vocab: int) -> Tokenizer:
    """A model folder's tokenizer; without a folder, a stand-in for a shape of `vocab` tokens."""
    return Tokenizer(ByteVocabulary(vocab)) if folder is None else read_tokenizer(folder)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: `tokenizer.json`, or `tokenizer.model` if there is none or
    it cannot be read.

    Raises BadModel naming the folder and what was looked for there.
    """
    config = _read_config(folder)
    json_path, model_path = folder / "tokenizer.json", folder / "tokenizer.model"
    if json_path.is_file():
        try:
            return _assemble(read_json_vocabulary(json_path), config, folder)
        except BadModel as error:
            if not model_path.is_file():
                raise
            _log.warning("%s; reading %s instead", error, model_path.name)
    if model_path.is_file():
        vocabulary = read_sentencepiece(model_path, config.flags, config.added)
        return _assemble(vocabulary, config, folder)
    raise BadModel(
        f"{folder} has no tokenizer: looked for {json_path.name} and {model_path.name}; "
        "copy one of them from where the model came from"
    )


class Tokenizer:
    """`prefix` and `suffix` are the ids put around every prompt, such as that of `<s>`; `named` are
    texts of special tokens by what the configuration calls them, such as `bos_token`; `shown` are
    no special ones, whatever the vocabulary says.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        named: Mapping[str, str] = MappingProxyType({}),
        shown: Iterable[int] = (),
        eos_ids: Iterable[int] = (),
    ) -> None:
        self.prefix = tuple(prefix)
        self.suffix = tuple(suffix)
        self.eos_ids = frozenset(eos_ids)
        """What the tokenizer's own configuration calls the end of a text."""
        self.named = dict(named)
        self._vocabulary = vocabulary
        specials = {i for i in map(vocabulary.token_id, named.values()) if i is not None}
        self._specials = (vocabulary.specials | specials) - frozenset(shown)
        self.special_ids = {self.piece(each): each for each in sorted(self._specials)}
        """By what a special token would be spelt as, if it had a text."""

    @property
    def vocab_size(self) -> int:
        return self._vocabulary.size

    @property
    def drops_first_space(self) -> bool:
        return self._vocabulary.drops_first_space

    def encode(self, text: str) -> list[int]:
        return [*self.prefix, *self.encode_bare(text), *self.suffix]

    def encode_bare(self, text: str) -> list[int]:
        """Of a text that brings its own frame, as chat templates write it."""
        return self._vocabulary.encode(text)

    def decode(self, ids: Iterable[int], *, shows_specials: bool = False) -> str:
        """All at once, without special tokens unless they are asked for. A `Detokenizer` gives the
        same text piece by piece.
        """
        shown_ids = ids if shows_specials else (i for i in ids if not self.is_special(i))
        text = b"".join(map(self.token_bytes, shown_ids))
        shown = text.decode(errors="replace")
        return shown.removeprefix(" ") if self.drops_first_space else shown

    def piece(self, token_id: int) -> str:
        return self._vocabulary.piece(token_id)

    def token_bytes(self, token_id: int) -> bytes:
        return self._vocabulary.token_bytes(token_id)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._specials


class Detokenizer:
    """The text of one request's tokens, as they come. Each token costs the same, however many came
    before.

    A character that is spread over several tokens is given out when its last byte is there; bytes
    that can no longer become a character are given out as U+FFFD. After a `prompt` that has any
    text, the first space is the answer's own.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Iterable[int] = (), *, shows_specials: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._shows_specials = shows_specials
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._drops_space = tokenizer.drops_first_space and all(map(tokenizer.is_special, prompt))

    def push(self, token_id: int) -> str:
        """What this token adds to the text."""
        if self._tokenizer.is_special(token_id) and not self._shows_specials:
            return ""
        return self._begun(self._utf8.decode(self._tokenizer.token_bytes(token_id)))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        return self._begun(self._utf8.decode(b"", final=True))

    def _begun(self, text: str) -> str:
        if text and self._drops_space:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


@dataclass(frozen=True, kw_only=True)
class _Config:
    """What `tokenizer_config.json` and its neighbours say. None: nothing."""

    bos: str | None
    eos: tuple[str, ...]
    """The first is what ends a prompt, if it is to be ended; each ends an answer."""
    named: Mapping[str, str]
    adds_bos: bool | None
    adds_eos: bool | None
    added: tuple[Added, ...]
    """Tokens that came after training, and those of the vocabulary that more is said of."""
    flags: Mapping[str, Any]
    """All of `tokenizer_config.json`."""


def _read_config(folder: Path) -> _Config:
    config = read_object(folder / "tokenizer_config.json")
    older = read_object(folder / "special_tokens_map.json")
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    texts = {name: token_text(config.get(name)) or token_text(older.get(name)) for name in names}
    ends = (texts["eos_token"], token_text(older.get("eos_token")))
    return _Config(
        bos=texts["bos_token"],
        eos=tuple(dict.fromkeys(text for text in ends if text)),
        named={name: text for name, text in texts.items() if text is not None},
        adds_bos=config.get("add_bos_token"),
        adds_eos=config.get("add_eos_token"),
        added=tuple(_added(folder, config, older)),
        flags=config,
    )


def _added(folder: Path, config: Mapping[str, Any], older: Mapping[str, Any]) -> Iterator[Added]:
    """What is said of a token last is what counts."""
    listed = config.get("added_tokens_decoder", {})
    ids = {each["content"]: int(i) for i, each in listed.items()}
    ids = {**read_object(folder / "added_tokens.json"), **ids}
    yield from (Added(content=content, id=i) for content, i in ids.items())
    for token in (*_named(older), *_named(config)):
        text = token_text(token)
        if text:
            yield _told(token if isinstance(token, dict) else {}, text, ids.get(text), special=True)
    for each in listed.values():
        content = each["content"]
        yield _told(each, content, ids[content], special=bool(each.get("special")))


def _named(config: Mapping[str, Any]) -> Iterator[Any]:
    """Special tokens, by their role or without any."""
    yield from (config.get(f"{name}_token") for name in ("bos", "eos", "pad", "unk"))
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(name) or []
        yield from more.values() if isinstance(more, dict) else more


def _told(token: Mapping[str, Any], content: str, i: int | None, *, special: bool) -> Added:
    flags = {name: bool(token.get(name)) for name in ("lstrip", "rstrip", "single_word")}
    return Added(
        content=content, id=i, special=special, normalized=token.get("normalized"), **flags
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that may be missing."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadModel(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadModel(f"{path} holds a {type(document).__name__}, not an object")
    return document


def token_text(token: Any) -> str | None:
    """A token is written as its text, or as an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _assemble(vocabulary: Vocabulary, config: _Config, folder: Path) -> Tokenizer:
    """What the configuration says about framing goes before what the vocabulary's own files say."""
    id_of: Callable[[str], int | None] = vocabulary.token_id
    ends = [i for i in map(id_of, config.eos) if i is not None]
    eos = id_of(config.eos[0]) if config.eos else None
    bos = None if config.bos is None else id_of(config.bos)
    return Tokenizer(
        vocabulary,
        prefix=_frame(config.adds_bos, bos, vocabulary.prefix, f"{folder}: bos"),
        suffix=_frame(config.adds_eos, eos, vocabulary.suffix, f"{folder}: eos"),
        named=config.named,
        shown=[i for i in map(id_of, TAGS) if i is not None],
        eos_ids=[*ends, *vocabulary.eos_ids],
    )


def _frame(
    wanted: bool | None, token_id: int | None, own: tuple[int, ...], what: str
) -> tuple[int, ...]:
    if wanted is None:
        return own
    if not wanted:
        return ()
    if token_id is None:
        raise BadModel(
            f"{what}_token is to be added to every prompt, but no token of the vocabulary is named "
            "as it; name one in tokenizer_config.json"
        )
    return (token_id,)
