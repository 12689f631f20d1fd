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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from edgeserve.errors import BadModel, UnsupportedModel
from edgeserve.families.checkpoint import StoredTensor, read_header, weight_files
from edgeserve.families.rules import TensorSource, stage_tensors, unknown_tensors
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage import Stage
from edgeserve.model.product import LeavePlain, Preparation, Product, empty_parameter
from edgeserve.model.slice import Slice

BLOCK_BYTES = 64 * 2**20
"""Large enough for any disk, and a small part of the 600 MB that a worker may take beside its slice
and its pages."""
HASHED_END_BYTES = 4096
RANDOM_STD = 0.02

_STORED = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

OnProgress = Callable[[int, int], None]
"""Bytes done, bytes in total."""


@dataclass(frozen=True)
class Form:
    """What a slice's numbers become."""

    dtype: torch.dtype
    device: torch.device | str = "cpu"
    prepare: Preparation = field(default_factory=LeavePlain)
    quantised: str = ""
    """Distinguishes slices whose products `prepare` makes smaller."""

    def __str__(self) -> str:
        return self.quantised or str(self.dtype)


@dataclass(frozen=True, kw_only=True)
class LoadedSlice:
    slice: Slice
    slice_hash: str


def load_slice(
    folder: Path, spec: ModelSpec, stage: Stage, form: Form, on_progress: OnProgress
) -> LoadedSlice:
    """`on_progress` is told bytes of the checkpoint.

    `slice_hash` covers the spec, the stage, the form, and of each tensor its name, shape, stored
    dtype and its first and last 4 KiB. Two slices of different models, fine-tunes or revisions
    practically never share it, whatever files they were split over. It does not cover the middle of
    a tensor, so it does not prove that no byte was damaged there.

    Raises BadModel, naming tensor and file.
    """
    found = find_tensors(folder, spec, stage)
    filling = Filling(spec, stage, form)
    fill(filling, found, on_progress, BLOCK_BYTES)
    return LoadedSlice(slice=filling.slice, slice_hash=_hash(spec, stage, form, _contents(found)))


def slice_hash(folder: Path, spec: ModelSpec, stage: Stage, form: Form) -> str:
    """What `load_slice` would say of the files as they are now, for a few KiB of reading."""
    return _hash(spec, stage, form, _contents(find_tensors(folder, spec, stage)))


def random_slice(spec: ModelSpec, stage: Stage, form: Form, on_progress: OnProgress) -> LoadedSlice:
    """Norms are 1, all else is normal with a standard deviation of 0.02, made on the device.

    A tensor's numbers depend on its name alone (and on dtype and kind of device), so every cut is
    the same model.
    """
    filling = Filling(spec, stage, form)
    total_bytes = sum(math.prod(each.shape) for each in filling.sources) * form.dtype.itemsize
    done_bytes = 0
    for source in filling.sources:
        rows = filling.rows(source)
        if source.is_norm:
            rows.fill_(1.0)
        else:
            rows.normal_(0.0, RANDOM_STD, generator=_generator(source.name, form.device))
        done_bytes += rows.nbytes
        filling.filled(source)
        on_progress(done_bytes, total_bytes)
    names = [f"random {each.name} {each.shape}".encode() for each in filling.sources]
    return LoadedSlice(slice=filling.slice, slice_hash=_hash(spec, stage, form, iter(names)))


class Filling:
    """A slice on its way: a parameter's memory is taken when its first rows come, and a product is
    prepared when its last have come. So never more than one product is there in full precision.
    """

    def __init__(self, spec: ModelSpec, stage: Stage, form: Form) -> None:
        self.slice = Slice(spec, stage, form.dtype, form.device, parameters_on="meta")
        self.sources = stage_tensors(spec, stage)
        self._form = form
        self._missing = Counter(_module_of(each) for each in self.sources)

    def rows(self, source: TensorSource) -> Tensor:
        """Where the tensor belongs."""
        module = self.slice.get_submodule(_module_of(source))
        name = source.target.rpartition(".")[2]
        parameter: Tensor = getattr(module, name)
        if parameter.is_meta:
            parameter = empty_parameter(
                *parameter.shape, dtype=parameter.dtype, device=self._form.device
            )
            setattr(module, name, parameter)
        return parameter[source.rows_start : source.rows_end]

    def filled(self, source: TensorSource) -> None:
        name = _module_of(source)
        self._missing[name] -= 1
        module = self.slice.get_submodule(name)
        if not self._missing[name] and isinstance(module, Product):
            self._form.prepare(name, module)


def _module_of(source: TensorSource) -> str:
    return source.target.rpartition(".")[0]


@dataclass(frozen=True, kw_only=True)
class FoundTensor:
    """A tensor that the stage needs, and where it is."""

    source: TensorSource
    stored: StoredTensor


def find_tensors(folder: Path, spec: ModelSpec, stage: Stage) -> list[FoundTensor]:
    """All that the stage needs, checked, in the order in which they lie on the disk."""
    files = weight_files(folder, {each.name for each in stage_tensors(spec, stage)})
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
    filling: Filling, found: Sequence[FoundTensor], on_progress: OnProgress, block_bytes: int
) -> None:
    """Reads every tensor into the rows that it is for, at most `block_bytes` at a time."""
    total_bytes = sum(each.stored.bytes for each in found)
    done_bytes = 0
    staging = _Staging(block_bytes)
    for each in found:
        target = filling.rows(each.source)
        with each.stored.path.open("rb", buffering=0) as file:
            file.seek(each.stored.start_byte)
            for rows in _blocks(target, each.stored, block_bytes):
                staging.read(file, rows, each.stored)
                done_bytes += rows.numel() * _STORED[each.stored.dtype].itemsize
                on_progress(done_bytes, total_bytes)
        filling.filled(each.source)


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


def _hash(spec: ModelSpec, stage: Stage, form: Form, parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256(f"{spec.spec_hash} {stage} {form}".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _generator(name: str, device: torch.device | str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.Generator(device).manual_seed(seed >> 1)  # seeds are signed
