"""Fills a slice: from a folder's safetensors, or with random numbers for a built-in shape.

Only the tensors of the stage are opened. They are read with plain file reads, never mapped, in
blocks of rows straight into place where dtype and device allow it, through one staging buffer
otherwise: beside the slice, the host never holds more than the buffer and a converted block.
Refuses to know pages and frames.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.checkpoint import StoredTensor, read_header, weight_files
from edgeserve.families.rules import TensorSource, stage_tensors, unknown_tensors
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage import Stage
from edgeserve.model.slice import Slice

BLOCK_BYTES = 256 * 2**20
"""Large enough for any disk; with its converted copy (at most twice as large) below 1 GiB."""
HASHED_END_BYTES = 4096
RANDOM_STD = 0.02

_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

OnProgress = Callable[[int, int], None]
"""Bytes done, bytes in total."""


@dataclass(frozen=True, kw_only=True)
class LoadedSlice:
    slice: Slice
    slice_hash: str


def load_slice(  # noqa: PLR0917  # all that a worker is told
    folder: Path,
    spec: ModelSpec,
    stage: Stage,
    dtype: torch.dtype,
    device: torch.device | str,
    on_progress: OnProgress,
) -> LoadedSlice:
    """`on_progress` is told bytes of the checkpoint.

    `slice_hash` covers the spec, the stage, the dtype, and of each tensor its name, shape, stored
    dtype and its first and last 4 KiB. Two slices of different models, fine-tunes or revisions
    practically never share it, whatever files they were split over. It does not cover the middle of
    a tensor, so it does not prove that no byte was damaged there.

    Raises BadModel, naming tensor and file.
    """
    found = find_tensors(folder, spec, stage)
    slice_ = Slice(spec, stage, dtype, device)
    fill(slice_, found, on_progress, BLOCK_BYTES)
    return LoadedSlice(slice=slice_, slice_hash=_hash(spec, stage, dtype, _contents(found)))


def slice_hash(folder: Path, spec: ModelSpec, stage: Stage, dtype: torch.dtype) -> str:
    """What `load_slice` would say of the files as they are now, for a few KiB of reading."""
    return _hash(spec, stage, dtype, _contents(find_tensors(folder, spec, stage)))


def random_slice(
    spec: ModelSpec,
    stage: Stage,
    dtype: torch.dtype,
    device: torch.device | str,
    on_progress: OnProgress,
) -> LoadedSlice:
    """Norms are 1, all else is normal with a standard deviation of 0.02, made on the device.

    A tensor's numbers depend on its name alone (and on dtype and kind of device), so every cut is
    the same model.
    """
    slice_ = Slice(spec, stage, dtype, device)
    parameters = dict(slice_.named_parameters())
    sources = stage_tensors(spec, stage)
    total_bytes = sum(math.prod(each.shape) for each in sources) * dtype.itemsize
    done_bytes = 0
    for source in sources:
        rows = parameters[source.target][source.rows_start : source.rows_end]
        if source.is_norm:
            rows.fill_(1.0)
        else:
            rows.normal_(0.0, RANDOM_STD, generator=_generator(source.name, device))
        done_bytes += rows.nbytes
        on_progress(done_bytes, total_bytes)
    names = [f"random {each.name} {each.shape}".encode() for each in sources]
    return LoadedSlice(slice=slice_, slice_hash=_hash(spec, stage, dtype, iter(names)))


@dataclass(frozen=True, kw_only=True)
class FoundTensor:
    """A tensor that the stage needs, and where it is."""

    source: TensorSource
    stored: StoredTensor


def find_tensors(folder: Path, spec: ModelSpec, stage: Stage) -> list[FoundTensor]:
    """All that the stage needs, checked, in the order in which they lie on the disk."""
    files = weight_files(folder)
    unknown = unknown_tensors(spec, stage, iter(files))
    if unknown:
        raise UnsupportedModel(
            f"{files[unknown[0]]} has a tensor {unknown[0]} that a {spec.family} model with this "
            f"config.json does not have ({len(unknown)} such in all); without it the answers would "
            "be wrong"
        )
    headers = {
        path: read_header(path)
        for path in {files[each.name] for each in stage_tensors(spec, stage) if each.name in files}
    }
    found = []
    for source in stage_tensors(spec, stage):
        path = files.get(source.name)
        stored = headers[path].get(source.name) if path else None
        if stored is None:
            raise BadModel(f"tensor {source.name} is missing in {path or folder}; {stage} needs it")
        _check(source, stored)
        found.append(FoundTensor(source=source, stored=stored))
    return sorted(found, key=lambda each: (each.stored.path, each.stored.start_byte))


def fill(
    slice_: Slice, found: list[FoundTensor], on_progress: OnProgress, block_bytes: int
) -> None:
    """Reads every tensor into the rows that it is for, at most `block_bytes` at a time."""
    parameters = dict(slice_.named_parameters())
    total_bytes = sum(each.stored.bytes for each in found)
    done_bytes = 0
    staging = _Staging(block_bytes)
    for each in found:
        target = parameters[each.source.target][each.source.rows_start : each.source.rows_end]
        with each.stored.path.open("rb", buffering=0) as file:
            file.seek(each.stored.start_byte)
            for rows in _blocks(target, each.stored, block_bytes):
                staging.read(file, rows, each.stored)
                done_bytes += rows.numel() * _STORED[each.stored.dtype].itemsize
                on_progress(done_bytes, total_bytes)


class _Staging:
    """Brings rows from a file to a parameter, through a buffer unless they can be read in place."""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._buffer: Tensor | None = None

    def read(self, file: io.RawIOBase, rows: Tensor, stored: StoredTensor) -> None:
        dtype = _STORED[stored.dtype]
        if rows.device.type == "cpu" and rows.dtype is dtype:
            _read_exactly(file, rows, stored)
            return
        landed = self._landing(rows.numel() * dtype.itemsize).view(dtype).view(rows.shape)
        _read_exactly(file, landed, stored)
        rows.copy_(landed)
        # fp16 ends at 65504, where bf16 and fp32 go on: beyond it every answer would be NaN.
        if rows.dtype is torch.float16 and not all(map(math.isfinite, rows.aminmax())):
            raise BadModel(
                f"tensor {stored.name} in {stored.path} has numbers that fp16 cannot hold; "
                "serve the model with --dtype bf16"
            )

    def _landing(self, size_bytes: int) -> Tensor:
        if self._buffer is None or self._buffer.nbytes < size_bytes:
            self._buffer = torch.empty(max(size_bytes, self._block_bytes), dtype=torch.uint8)
        return self._buffer[:size_bytes]


def _read_exactly(file: io.RawIOBase, into: Tensor, stored: StoredTensor) -> None:
    view = memoryview(into.view(torch.uint8).view(-1).numpy())  # type: ignore[arg-type]
    while view:
        count = file.readinto(view)
        if not count:
            raise BadModel(
                f"tensor {stored.name} is cut short: {len(view)} bytes are missing at the end of "
                f"{stored.path}; download it again"
            )
        view = view[count:]


def _blocks(target: Tensor, stored: StoredTensor, block_bytes: int) -> Iterator[Tensor]:
    """`target` in runs of whole rows, of at most `block_bytes` in the file, but at least a row."""
    rows = max(1, block_bytes * len(target) // max(1, stored.bytes))
    for start in range(0, len(target), rows):
        yield target[start : start + rows]


def _check(source: TensorSource, stored: StoredTensor) -> None:
    if stored.dtype not in _STORED:
        raise UnsupportedModel(
            f"tensor {stored.name} in {stored.path} is stored as {stored.dtype}; supported are "
            f"{', '.join(_STORED)}"
        )
    if stored.shape != source.shape:
        raise BadModel(
            f"tensor {stored.name} in {stored.path} has shape {list(stored.shape)}, but by "
            f"config.json it should have {list(source.shape)}"
        )


def _contents(found: list[FoundTensor]) -> Iterator[bytes]:
    """What the hash sees of each tensor; by name, since files may be split in other ways."""
    for each in sorted(found, key=lambda each: each.source.name):
        stored = each.stored
        yield json.dumps([stored.name, stored.dtype, stored.shape]).encode()
        edge_bytes = min(stored.bytes, HASHED_END_BYTES)
        with stored.path.open("rb") as file:
            for start in (stored.start_byte, stored.end_byte - edge_bytes):
                file.seek(start)
                yield file.read(edge_bytes)


def _hash(spec: ModelSpec, stage: Stage, dtype: torch.dtype, parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256(f"{spec.spec_hash} {stage} {dtype}".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _generator(name: str, device: torch.device | str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.Generator(device).manual_seed(seed >> 1)  # seeds are signed
