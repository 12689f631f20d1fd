"""What lies where in safetensors files: names, shapes and byte ranges.

Reads headers, never a weight. A safetensors file is 8 bytes of header length (little-endian), that
many bytes of JSON, and the tensors one after the other. Nothing in it can run. Everything that the
header claims is checked against the file before anyone uses it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeserve.errors import BadModel

INDEX = "model.safetensors.index.json"
HEADER_BYTES_MAX = 100_000_000  # the format's own limit; a 70B model's header has 100 kB

_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}
_RUNNABLE = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_NO_WEIGHTS = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor at bytes [start_byte, end_byte) of its file, rows first."""

    name: str
    path: Path
    dtype: str
    """As the format spells it: F32, F16, BF16, ..."""
    shape: tuple[int, ...]
    start_byte: int
    end_byte: int

    @property
    def bytes(self) -> int:
        return self.end_byte - self.start_byte


def weight_files(folder: Path, needed: Collection[str] | None = None) -> Mapping[str, Path]:
    """The file of each tensor. Raises BadModel if there is none, or if one is missing that the
    index has for a tensor of `needed`, which is all of them unless said otherwise.
    """
    index = folder / INDEX
    if index.is_file():
        named = indexed_files(index)
        _refuse_missing(index, named, named.keys() if needed is None else needed)
        return named
    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        refuse_runnable(folder)
        raise BadModel(f"{folder} has no weights: no *.safetensors file lies in it")
    found: dict[str, Path] = {}
    for path in files:
        for name in read_header(path):
            if name in found:
                raise BadModel(
                    f"tensor {name} is in both {found[name]} and {path}; keep one of the files"
                )
            found[name] = path
    return found


def indexed_files(index: Path) -> Mapping[str, Path]:
    """The file of each tensor as an index says, there or not. Raises BadModel."""
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        files = {str(name): index.parent / str(shard) for name, shard in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise BadModel(f"{index} is not an index of safetensors files: no weight_map") from None
    for path in sorted(set(files.values())):
        if path.parent != index.parent:
            raise BadModel(f"{index} names {path}, which is outside of the model's folder")
        if path.suffix != ".safetensors":
            raise BadModel(f"{index} names {path.name}, which is no *.safetensors")
    return files


def has_weights(folder: Path) -> bool:
    """Whether there are any. Where a gateway has no GPU, there need be none."""
    return any(folder.glob("*.safetensors"))


def refuse_runnable(folder: Path) -> None:
    """Raises BadModel if the only weights are of a kind that can run code when opened."""
    if has_weights(folder) or (folder / INDEX).is_file():
        return
    names = {path.name for pattern in _RUNNABLE for path in folder.glob(pattern)} - _NO_WEIGHTS
    if names:
        raise BadModel(
            f"{folder} has its weights only as {min(names)}; such files can run code when "
            "opened, so they never are: convert them to safetensors (transformers' "
            "save_pretrained does), or download the model's *.safetensors"
        )


def read_header(path: Path) -> Mapping[str, StoredTensor]:
    """All tensors of a file by name. Raises BadModel if it is truncated or corrupt."""
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or header_bytes > min(HEADER_BYTES_MAX, file_bytes - 8):
                raise _corrupt(path, f"{file_bytes} bytes cannot hold its header")
            header = json.loads(file.read(header_bytes))
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise _corrupt(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _corrupt(path, "its header is not an object")
    header.pop("__metadata__", None)
    found = {name: _stored(path, name, entry, 8 + header_bytes) for name, entry in header.items()}
    end = max((each.end_byte for each in found.values()), default=8 + header_bytes)
    if end > file_bytes:
        raise _corrupt(path, f"it has {file_bytes} bytes of {end}: {end - file_bytes} are missing")
    return found


def _refuse_missing(index: Path, files: Mapping[str, Path], needed: Collection[str]) -> None:
    for path in sorted({files[name] for name in needed if name in files}):
        if not path.is_file():
            raise BadModel(
                f"{path.name} is missing: {index} names it among {len(set(files.values()))} "
                "files; download it again"
            )


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """One entry of the header, checked."""
    try:
        dtype, shape = str(entry["dtype"]), tuple(entry["shape"])
        start, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise _corrupt(path, f"the header's entry for tensor {name} is incomplete") from None
    numbers = (*shape, start, end)
    if any(type(each) is not int or each < 0 for each in numbers) or start > end:
        raise _corrupt(path, f"the header's entry for tensor {name} has impossible numbers")
    item_bytes = _ITEM_BYTES.get(dtype)
    if item_bytes is not None and end - start != math.prod(shape) * item_bytes:
        raise _corrupt(
            path,
            f"tensor {name} of shape {list(shape)} and dtype {dtype} has {end - start} bytes "
            f"instead of {math.prod(shape) * item_bytes}",
        )
    return StoredTensor(
        name=name,
        path=path,
        dtype=dtype,
        shape=shape,
        start_byte=data_start + start,
        end_byte=data_start + end,
    )


def _corrupt(path: Path, why: str) -> BadModel:
    return BadModel(f"{path} is truncated or corrupt: {why}; download it again")
