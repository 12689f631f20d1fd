"""`tokenizer.model`, made a tokenizer of the same library that reads `tokenizer.json`.

Sentencepiece itself knows no tokens but its own, and puts a space before whatever it is given. What
a folder's configuration says of added tokens (which white space belongs to them, whether they are
whole words) and of that space is what the other library does, so it gets sentencepiece's pieces,
merges and normalization. Refuses to know where configurations lie.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.gateway.text.vocabulary import SPACE, LibraryVocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # of sentencepiece's piece types
UNIGRAM = 1  # of its model types
LLAMA_CLASSES = {
    "LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer", "CodeLlamaTokenizerFast",
}  # fmt: skip

_MODEL_PROTO: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]  # generated

Prepends = Literal["always", "first", "never"]


@dataclass(frozen=True, kw_only=True)
class Added:
    """A token that a configuration adds, or says more of; as the library has it."""

    content: str
    id: int | None = None
    """None: it is the vocabulary's own."""
    special: bool = False
    lstrip: bool = False
    """It takes the white space before it along; `rstrip` that behind it."""
    rstrip: bool = False
    single_word: bool = False
    normalized: bool | None = None

    def of_library(self) -> AddedToken:
        normalized = not self.special if self.normalized is None else self.normalized
        return AddedToken(
            self.content,
            special=self.special,
            lstrip=self.lstrip,
            rstrip=self.rstrip,
            single_word=self.single_word,
            normalized=normalized,
        )


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Where a space is put before a text."""

    prepends: Prepends
    """`always` is also behind every added token, `first` at the beginning of a text alone."""
    doubles: bool
    """Whether before a text that begins with a space, too: sentencepiece's own way."""
    isolates: bool
    """Whether pieces that are never cut are looked for behind that space, and added tokens before
    anything is normalized: sentencepiece's own way, too.
    """


def spaces_of(config: Mapping[str, Any], *, dummy_prefix: bool) -> Spaces:
    """As transformers has it; `dummy_prefix` is what the sentencepiece model says."""
    if config.get("tokenizer_class") not in LLAMA_CLASSES:
        scheme: Prepends = "always" if config.get("legacy", True) else "first"
        return Spaces(
            prepends=scheme if dummy_prefix else "never",
            doubles=dummy_prefix and scheme == "always",
            isolates=True,
        )
    wanted = config.get("add_prefix_space")
    scheme = "always" if config.get("legacy") else "first"
    has_prefix = dummy_prefix if wanted is None else bool(wanted)
    return Spaces(prepends=scheme if has_prefix else "never", doubles=False, isolates=False)


def read_sentencepiece(
    path: Path, config: Mapping[str, Any], added: Sequence[Added]
) -> LibraryVocabulary:
    """`config` is that of `tokenizer_config.json`. Raises BadModel."""
    proto = _parsed(path)
    spaces = spaces_of(config, dummy_prefix=proto.normalizer_spec.add_dummy_prefix)
    uncut = _uncut(proto) if spaces.isolates else None
    encoder = tokenizers.Tokenizer(_model(proto, _pieces(proto, added), path, isolates=bool(uncut)))
    encoder.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec, spaces))
    encoder.pre_tokenizer = pre_tokenizers.Sequence(_pre_tokenizers(spaces, uncut))
    encoder.decoder = decoders.Sequence(_decoders(spaces))
    encoder.add_tokens(_added_tokens(proto, added, uncut))
    bos, eos = proto.trainer_spec.bos_id, proto.trainer_spec.eos_id
    return LibraryVocabulary(
        encoder,
        path,
        prefix=(bos,) if 0 <= bos < len(proto.pieces) else (),
        eos_ids=frozenset({eos} if 0 <= eos < len(proto.pieces) else ()),
    )


def _parsed(path: Path) -> Any:
    """Sentencepiece judges the file, since it knows more of it than that it can be parsed."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise BadModel(f"{path} cannot be read as a sentencepiece model: {error}") from None
    return _MODEL_PROTO.FromString(processor.serialized_model_proto())


def _pieces(proto: Any, added: Iterable[Added]) -> dict[int, str]:
    """What each id is called. A configuration may give names to ids that were kept for it, and may
    leave ids out: then those behind belong here, too, since the library leaves none out.
    """
    own = [piece.piece for piece in proto.pieces]
    named = {a.id: a.content for a in added if a.id is not None and a.content not in {*own}}
    behind = [i for i in named if i >= len(own)]
    if sorted(behind) == [*range(len(own), len(own) + len(behind))]:
        named = {i: content for i, content in named.items() if i < len(own)}
    return {**dict(enumerate(own)), **named}


def _model(proto: Any, pieces: Mapping[int, str], path: Path, *, isolates: bool) -> models.Model:
    fallback = any(piece.type == BYTE for piece in proto.pieces)
    if proto.trainer_spec.model_type == UNIGRAM:
        if max(pieces) + 1 != len(pieces):
            raise UnsupportedModel(f"{path} is a unigram model, and its added tokens leave ids out")
        scores = {i: piece.score for i, piece in enumerate(proto.pieces)}
        listed = [(pieces[i], scores.get(i, 0.0)) for i in sorted(pieces)]
        return models.Unigram(listed, proto.trainer_spec.unk_id, fallback)
    return models.BPE(
        vocab={piece: i for i, piece in pieces.items()},
        merges=_merges(proto),
        unk_token=pieces.get(proto.trainer_spec.unk_id),
        fuse_unk=True,
        byte_fallback=fallback,
        ignore_merges=isolates,  # a piece that is never cut is itself, and no merges make it
    )


def _merges(proto: Any) -> list[tuple[str, str]]:
    """Every way to put a piece together of two others; that of the piece with the best score first,
    which is what sentencepiece goes by.
    """
    rank = {p.piece: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == NORMAL}
    ways = (
        (place, at, piece[:at], piece[at:])
        for piece, place in rank.items()
        for at in range(1, len(piece))
    )
    return [(a, b) for _, _, a, b in sorted(w for w in ways if w[2] in rank and w[3] in rank)]


def _normalizers(spec: Any, spaces: Spaces) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        around, runs = tokenizers.Regex(r"\A +| +\z"), tokenizers.Regex(" {2,}")
        steps += [normalizers.Replace(around, ""), normalizers.Replace(runs, " ")]
    if spaces.doubles:
        # The other library puts no space before a text that begins with one.
        steps.append(normalizers.Replace(tokenizers.Regex(rf"\A[ {SPACE}]"), SPACE * 2))
    return steps


def _uncut(proto: Any) -> list[str]:
    """The longest first."""
    own = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    return sorted(own, key=len, reverse=True)


def _pre_tokenizers(
    spaces: Spaces, uncut: Sequence[str] | None
) -> list[pre_tokenizers.PreTokenizer]:
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=spaces.prepends, split=False)
    ]
    if uncut:
        pattern = tokenizers.Regex("|".join(map(re.escape, uncut)))
        steps.append(pre_tokenizers.Split(pattern, behavior="isolated"))
    return steps


def _decoders(spaces: Spaces) -> list[decoders.Decoder]:
    strip = [] if spaces.prepends == "never" else [decoders.Strip(content=" ", left=1)]
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]


def _added_tokens(
    proto: Any, added: Iterable[Added], isolated: Sequence[str] | None
) -> list[AddedToken]:
    """The model's own first: those that stand for no text, and those that are never cut, but for
    the `isolated` ones. Where these are a list, added tokens are looked for in the text as it is.
    """
    kinds = {UNKNOWN: True, CONTROL: True, USER_DEFINED: False}
    own = {
        piece.piece: Added(content=piece.piece, special=kinds[piece.type], normalized=False)
        for piece in proto.pieces
        if piece.type in kinds and piece.piece not in (isolated or ())
    }
    told = own | {each.content: each for each in added}
    numbered = sorted(told.values(), key=_number)
    if isolated is not None:
        numbered = [replace(each, normalized=False) for each in numbered]
    return [each.of_library() for each in numbered]


def _number(added: Added) -> float:
    """Last are those that nobody gave a number: the library does."""
    return math.inf if added.id is None else added.id
