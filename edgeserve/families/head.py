"""Whether the head is the embedding, as a config.json says that ties the two.

Some checkpoints are tied by their config.json and have another head in their files. Then the files
are right, for transformers 5 and for us. Opens headers, and weights only where a file has both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeserve.errors import BadModel
from edgeserve.families.checkpoint import (
    INDEX,
    StoredTensor,
    indexed_files,
    read_header,
    weight_files,
)
from edgeserve.families.rules import EMBEDDING, HEAD

BLOCK_BYTES = 2**24
_TIED = f"config.json ties the head to the embedding, but the model's files have a {HEAD}"


def own_head(folder: Path, *, by_content: bool) -> str:
    """What the operator should know of a tied model whose files have a head of their own; empty if
    its head is the embedding.

    With `by_content`, a head with the embedding's numbers is the embedding. Boxes that hold
    different parts of the files cannot compare them and go by the names alone, so that all of them
    come to the same answer.
    """
    try:
        names = _files(folder)
        if not has_both(names):
            return ""
        stored = _stored(names) if by_content else {}
    except BadModel:  # whoever reads the weights says what is wrong with them
        return ""
    if not stored:
        return said_of_names()
    if _are_equal(stored[HEAD], stored[EMBEDDING]):
        return ""
    return (
        f"{_TIED} with other numbers: the head is that one, not the embedding, as in transformers "
        "5; to silence this, set tie_word_embeddings to false"
    )


def has_both(names: Mapping[str, object]) -> bool:
    """A file that has the head alone has the embedding under its name."""
    return HEAD in names and EMBEDDING in names


def said_of_names() -> str:
    return (
        f"{_TIED}, too: the head is that one, and not compared with the embedding; to silence "
        "this, set tie_word_embeddings to what is right"
    )


def _files(folder: Path) -> Mapping[str, Path]:
    """The file of each tensor, there or not."""
    index = folder / INDEX
    return indexed_files(index) if index.is_file() else weight_files(folder)


def _stored(names: Mapping[str, Path]) -> dict[str, StoredTensor]:
    """The two, or nothing if one of their files is not here."""
    if not all(names[name].is_file() for name in (HEAD, EMBEDDING)):
        return {}
    headers = {path: read_header(path) for path in {names[HEAD], names[EMBEDDING]}}
    found = {name: headers[names[name]].get(name) for name in (HEAD, EMBEDDING)}
    return {name: stored for name, stored in found.items() if stored is not None}


def _are_equal(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    try:
        return all(left == right for left, right in zip(_blocks(one), _blocks(other), strict=True))
    except OSError as error:
        raise BadModel(f"{one.path} cannot be read: {error.strerror}") from None


def _blocks(stored: StoredTensor) -> Iterator[bytes]:
    with stored.path.open("rb") as file:
        file.seek(stored.start_byte)
        for start in range(0, stored.bytes, BLOCK_BYTES):
            yield file.read(min(BLOCK_BYTES, stored.bytes - start))
