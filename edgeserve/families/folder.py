"""Finds the model that a user named: a folder, a built-in shape, or the embedded demo.

Opens no weights, and knows no network: `hugging_face.find` asks here, and the hub where this finds
nothing. The gateway needs the config and the tokenizer only; weights are the workers'
business (`checkpoint.weight_files`).
"""

from __future__ import annotations

import difflib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeserve.errors import BadModel
from edgeserve.families.checkpoint import refuse_runnable, weight_files
from edgeserve.families.describe import describe_fully
from edgeserve.families.head import own_head
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import ModelSpec

__all__ = ["DEMO", "ModelSource", "open_folder", "open_model", "weight_files"]

_log = logging.getLogger(__name__)
DEMO = "demo"
DEFAULT_NAME = "model"
"""Of the model in the file system's root, which has no name."""
_DEMO_FOLDER = Path(__file__).parent.parent / "demo"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    name: str
    spec: ModelSpec
    folder: Path | None
    """None for a built-in shape."""
    eos_ids: frozenset[int]
    """Tokens that end a text."""
    revision: str | None = None
    """The commit on the Hugging Face hub that the folder holds a part of; None for any other."""
    warnings: tuple[str, ...] = ()
    """A sentence for each thing that is not as its files say, or is ignored: for the operator."""

    @property
    def random_weights(self) -> bool:
        return self.folder is None

    @property
    def reference(self) -> str:
        """What finds it on another box: its name on the hub, or its folder at the same path."""
        if self.revision is not None:
            return f"{self.name}@{self.revision}"
        if self.folder is None or self.folder == _DEMO_FOLDER:
            return self.name
        return str(self.folder.resolve())


def open_model(ref: str) -> ModelSource:
    """`ref` is "demo", a built-in shape's name or a folder's path, tried in this order.

    A folder called demo is ./demo. Raises BadModel.
    """
    if ref in SHAPES:
        return ModelSource(name=ref, spec=SHAPES[ref], folder=None, eos_ids=frozenset())
    folder = _DEMO_FOLDER if ref == DEMO else Path(ref).expanduser()
    if not folder.is_dir():
        raise _no_such_model(ref)
    return open_folder(folder, DEMO if ref == DEMO else _name_of(folder))


def open_folder(folder: Path, name: str, revision: str | None = None) -> ModelSource:
    """Of a `revision`, the weights need not be there yet. Raises BadModel."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise BadModel(f"{folder} is not a model's folder: it has no config.json")
    config = _read_object(config_path)
    if revision is None:
        refuse_runnable(folder)
    try:
        said = describe_fully(config)
    except BadModel as error:
        raise type(error)(f"{folder}: {error}", **error.numbers) from None
    eos_ids = _eos_ids(folder, config, said.spec.vocab)
    source = ModelSource(
        name=name, spec=said.spec, folder=folder, eos_ids=eos_ids, revision=revision,
        warnings=said.warnings,
    )  # fmt: skip
    if not said.spec.head_tied:
        return source
    return with_own_head(source, own_head(folder, by_content=revision is None))


def with_own_head(source: ModelSource, why: str) -> ModelSource:
    """With a head that is not the embedding, and with `why` among its warnings; as it is without a
    `why`.
    """
    if not why:
        return source
    return replace(
        source, spec=replace(source.spec, head_tied=False), warnings=(*source.warnings, why)
    )


def config_to_tell(source: ModelSource) -> bytes:
    """The config.json of a folder as another box has to read it, to know the same model without its
    weights: the head is said to be what it is.
    """
    assert source.folder is not None
    raw = (source.folder / "config.json").read_bytes()
    config = json.loads(raw)
    if source.spec.head_tied or not config.get("tie_word_embeddings"):
        return raw
    return json.dumps({**config, "tie_word_embeddings": False}).encode()


def told_model(ref: str, config: bytes) -> ModelSource:
    """The model of a folder that another box has, by its config.json. Raises BadModel."""
    try:
        document = json.loads(config)
    except ValueError as error:
        raise BadModel(f"the config.json of {ref} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadModel(f"the config.json of {ref} is not a JSON object")
    folder, said = Path(ref), describe_fully(document)
    return ModelSource(
        name=_name_of(folder), spec=said.spec, folder=folder, eos_ids=frozenset(),
        warnings=said.warnings,
    )  # fmt: skip


def _name_of(folder: Path) -> str:
    """As it was given: a link has its own name, and a snapshot in the hub's cache its repository's,
    `org/name`.
    """
    # Only the file system knows where .. leads from a link.
    given = folder.resolve() if ".." in folder.parts else folder.absolute()
    snapshots = given.parent.resolve()
    if snapshots.match("models--?*/snapshots"):
        return snapshots.parent.name.removeprefix("models--").replace("--", "/")
    return given.name or DEFAULT_NAME


def _no_such_model(ref: str) -> BadModel:
    near = difflib.get_close_matches(ref.lower(), [*SHAPES, DEMO], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"shapes are {', '.join(SHAPES)}"
    return BadModel(
        f"{ref!r} is neither a folder nor a built-in shape, nor is it org/name as the Hugging Face "
        f"hub names models; {hint}"
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadModel(f"{path} is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadModel(f"{path} is not a JSON object")
    return document


def _eos_ids(folder: Path, config: dict[str, Any], vocab: int) -> frozenset[int]:
    """All that either file names: a chat model ends turns by one of them, and texts by another. An
    id that is no row of the embedding never comes.
    """
    path = folder / "generation_config.json"
    named = _named_ends(folder / "config.json", config)
    if path.is_file():
        named |= _named_ends(path, _read_object(path))
    strangers = sorted(each for each in named if not 0 <= each < vocab)
    if strangers:
        _log.warning("%s: eos_token_id %s is none of the %d tokens", folder, strangers, vocab)
    return frozenset(named.difference(strangers))


def _named_ends(source: Path, document: dict[str, Any]) -> set[int]:
    value = document.get("eos_token_id")
    ids = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
    if not all(type(each) is int for each in ids):
        raise BadModel(f"{source}: eos_token_id is {value!r}; token ids are needed")
    return {*ids}
