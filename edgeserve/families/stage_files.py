"""Where the tensors of a stage lie: those that it needs, found in a folder's files and checked.

Opens headers, never a weight, and knows no torch: gateway and workers find tensors by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.checkpoint import StoredTensor, read_header, weight_files
from edgeserve.families.rules import (
    HEAD,
    TensorSource,
    name_in_files,
    stage_tensors,
    unknown_tensors,
)
from edgeserve.families.spec import ModelSpec
from edgeserve.frames.stage import Stage

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""What a tensor of a model may be stored as, and the bytes of one number."""


@dataclass(frozen=True, kw_only=True)
class FoundTensor:
    """A tensor that the stage needs, and where it is."""

    source: TensorSource
    stored: StoredTensor
    sha256: str = ""
    """Of a blob of the cache: whoever reads it makes sure, since disks lose bits. Empty for a file
    of somebody else.
    """


def find_tensors(folder: Path, spec: ModelSpec, stage: Stage) -> list[FoundTensor]:
    """All that the stage needs, checked, in the order in which they lie on the disk."""
    sources = stage_tensors(spec, stage)
    files = weight_files(folder, {each.name for each in sources})
    unknown = unknown_tensors(spec, stage, iter(files))
    if unknown:
        raise UnsupportedModel(
            f"{files[unknown[0]]} has a tensor {unknown[0]} that a {spec.family} model with this "
            f"config.json does not have ({len(unknown)} such in all); without it the answers would "
            "be wrong"
        )
    names = {each.name: name_in_files(spec, each.name, files) for each in sources}
    headers = {
        path: read_header(path)
        for path in {files[name] for name in names.values() if name in files}
    }
    found = []
    for source in sources:
        path = files.get(names[source.name])
        stored = headers[path].get(names[source.name]) if path else None
        if stored is None:
            raise _missing(source.name, path or folder, stage)
        _check(source, stored)
        found.append(FoundTensor(source=source, stored=replace(stored, name=source.name)))
    return in_order(found)


def in_order(found: Iterable[FoundTensor]) -> list[FoundTensor]:
    """As they lie on the disk."""
    return sorted(found, key=lambda each: (each.stored.path, each.stored.start_byte))


def _missing(name: str, where: Path, stage: Stage) -> BadModel:
    cure = (
        '; if the embedding is the head, too, set "tie_word_embeddings" to true in config.json'
        if name == HEAD
        else ""
    )
    return BadModel(f"tensor {name} is missing in {where}; {stage} needs it{cure}")


def _check(source: TensorSource, stored: StoredTensor) -> None:
    if stored.dtype not in ITEM_BYTES:
        raise UnsupportedModel(
            f"tensor {stored.name} in {stored.path} is stored as {stored.dtype}; supported are "
            f"{', '.join(ITEM_BYTES)}"
        )
    if stored.shape != source.shape:
        raise BadModel(
            f"tensor {stored.name} in {stored.path} has shape {list(stored.shape)}, but by "
            f"config.json it should have {list(source.shape)}"
        )
