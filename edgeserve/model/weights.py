"""Fills a slice: from a folder's safetensors, or with random numbers for a built-in shape.

Only the tensors of the stage are opened. They are read with plain file reads, never mapped, in
blocks of rows straight into place where dtype and device allow it, through the buffers of `staging`
otherwise: beside the slice, the host never holds more than these and a converted block.
Refuses to know pages and frames.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from edgeserve.errors import BadModel, DamagedWeights
from edgeserve.families.checkpoint import StoredTensor
from edgeserve.families.rules import TensorSource, stage_tensors
from edgeserve.families.spec import ModelSpec
from edgeserve.families.stage_files import FoundTensor, find_tensors
from edgeserve.frames.stage import Stage
from edgeserve.model.product import LeavePlain, Preparation, Product, empty_parameter
from edgeserve.model.slice import Slice
from edgeserve.model.staging import STORED, Staging, staging_to

BLOCK_BYTES = 64 * 2**20
"""Large enough for any disk, and a small part of the 600 MB that a worker may take beside its slice
and its pages."""
HASHED_END_BYTES = 4096
RANDOM_STD = 0.02

OnProgress = Callable[[int, int], None]
"""Bytes done, bytes in total."""


@dataclass(frozen=True)
class WeightForm:
    """What a slice's numbers become."""

    dtype: torch.dtype
    device: torch.device | str = "cpu"
    prepare: Preparation = field(default_factory=LeavePlain)
    quantised: str = ""
    """Distinguishes slices whose products `prepare` makes smaller, each as soon as it is full."""

    def __str__(self) -> str:
        return self.quantised or str(self.dtype)


@dataclass(frozen=True, kw_only=True)
class LoadedSlice:
    slice: Slice
    slice_hash: str


def load_slice(
    folder: Path, spec: ModelSpec, stage: Stage, form: WeightForm, on_progress: OnProgress
) -> LoadedSlice:
    """`load_found` what lies in `folder`."""
    return load_found(find_tensors(folder, spec, stage), spec, stage, form, on_progress)


def load_found(
    found: Sequence[FoundTensor],
    spec: ModelSpec,
    stage: Stage,
    form: WeightForm,
    on_progress: OnProgress,
) -> LoadedSlice:
    """`on_progress` is told bytes of the checkpoint.

    `slice_hash` covers the spec, the stage, the form, and of each tensor its name, shape, stored
    dtype and its first and last 4 KiB. Two slices of different models, fine-tunes or revisions
    practically never share it, whatever files they were split over. It does not cover the middle of
    a tensor, so it does not prove that no byte was damaged there.

    Raises BadModel, naming tensor and file; DamagedWeights for a blob of the cache that is not what
    its name says, which is then thrown away.
    """
    filling = Filling(spec, stage, form)
    fill(filling, found, on_progress, staging_to(form.device, BLOCK_BYTES))
    form.prepare.finish()
    return LoadedSlice(slice=filling.slice, slice_hash=_hash(spec, stage, form, _contents(found)))


def slice_hash(folder: Path, spec: ModelSpec, stage: Stage, form: WeightForm) -> str:
    """What `load_slice` would say of the files as they are now, for a few KiB of reading."""
    return _hash(spec, stage, form, _contents(find_tensors(folder, spec, stage)))


def random_slice(
    spec: ModelSpec, stage: Stage, form: WeightForm, on_progress: OnProgress
) -> LoadedSlice:
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
    form.prepare.finish()
    names = [f"random {each.name} {each.shape}".encode() for each in filling.sources]
    return LoadedSlice(slice=filling.slice, slice_hash=_hash(spec, stage, form, iter(names)))


class Filling:
    """A slice on its way: a parameter's memory is taken when its first rows come, and a product is
    prepared when its last have come. So never more than one product is there in full precision.
    """

    def __init__(self, spec: ModelSpec, stage: Stage, form: WeightForm) -> None:
        self.slice = Slice(spec, stage, form.dtype, form.device, parameters_on="meta")
        self.sources = stage_tensors(spec, stage)
        self._form = form
        self._placed = set[str]()
        self._missing = Counter(_module_of(each) for each in self.sources)
        self._scratch = _Scratch(self.slice, form) if form.quantised else None

    def rows(self, source: TensorSource) -> Tensor:
        """Where the tensor belongs."""
        module = self.slice.get_submodule(_module_of(source))
        name = source.target.rpartition(".")[2]
        parameter: Tensor = getattr(module, name)
        if source.target not in self._placed:
            self._placed.add(source.target)
            parameter = self._memory(module, parameter)
            setattr(module, name, parameter)
        return parameter[source.rows_start : source.rows_end]

    def _memory(self, module: nn.Module, parameter: Tensor) -> nn.Parameter:
        if self._scratch and isinstance(module, Product) and parameter is module.weight:
            return self._scratch.take(module)
        return empty_parameter(*parameter.shape, dtype=parameter.dtype, device=self._form.device)

    def filled(self, source: TensorSource) -> None:
        name = _module_of(source)
        self._missing[name] -= 1
        module = self.slice.get_submodule(name)
        if not self._missing[name] and isinstance(module, Product):
            self._form.prepare(name, module)
            if self._scratch:
                self._scratch.give_back(module)


class _Scratch:
    """Memory for products in full precision: all of a slice in turn, since each is made smaller as
    soon as it is full. The first piece is taken before any weight and is as large as the largest
    product; another is added where the numbers of two lie among each other in the files. So the
    memory of the device is not left in pieces.
    """

    def __init__(self, slice_: Slice, form: WeightForm) -> None:
        self._form = form
        products = (each for each in slice_.modules() if isinstance(each, Product))
        self._free = [self._new(max((each.weight.numel() for each in products), default=0))]
        self._taken: dict[Product, Tensor] = {}

    def take(self, product: Product) -> nn.Parameter:
        shape = product.weight.shape
        fitting = [each for each in self._free if len(each) >= shape.numel()]
        piece = min(fitting, key=len) if fitting else self._new(shape.numel())
        self._free = [each for each in self._free if each is not piece]
        self._taken[product] = piece
        return nn.Parameter(piece[: shape.numel()].view(shape), requires_grad=False)

    def give_back(self, product: Product) -> None:
        self._free.append(self._taken.pop(product))

    def _new(self, numbers: int) -> Tensor:
        return torch.empty(numbers, dtype=self._form.dtype, device=self._form.device)


def _module_of(source: TensorSource) -> str:
    return source.target.rpartition(".")[0]


def fill(
    filling: Filling, found: Sequence[FoundTensor], on_progress: OnProgress, staging: Staging
) -> None:
    """Reads every tensor into the rows that it is for, in blocks as `staging` takes them. Goes on
    behind a damaged blob: so all that are, are thrown out at once, and not one in each try.
    """
    total_bytes = sum(each.stored.bytes for each in found)
    done_bytes, damage = 0, list[DamagedWeights]()
    for each in found:
        try:
            for read_bytes in _read(each, filling.rows(each.source), staging):
                on_progress(done_bytes + read_bytes, total_bytes)
        except DamagedWeights as error:
            damage.append(error)
        else:
            filling.filled(each.source)
        done_bytes += each.stored.bytes
    if damage:
        raise damage[0]
    staging.finish()


def _read(found: FoundTensor, target: Tensor, staging: Staging) -> Iterator[int]:
    """The bytes of it that were read, so far."""
    with _Reader(found) as reader:
        done_bytes = 0
        for rows in _blocks(target, found.stored, staging.block_bytes):
            staging.read(reader, rows)
            done_bytes += rows.numel() * STORED[found.stored.dtype].itemsize
            yield done_bytes
        reader.check()


class _Reader:
    """The bytes of a tensor in a row, and of a blob whether they are the right ones."""

    def __init__(self, found: FoundTensor) -> None:
        self.stored = found.stored
        self._sha256 = found.sha256
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        try:
            self._file = self.stored.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise self._lost("is gone from") from None
        self._file.seek(self.stored.start_byte)
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def read(self, into: Tensor) -> None:
        view = memoryview(into.view(torch.uint8).view(-1).numpy())  # type: ignore[arg-type]
        while view:
            try:
                count = self._file.readinto(view)
            except OSError as error:
                raise self._lost(f"cannot be read ({error.strerror}) from") from None
            if not count:
                raise self._lost(f"is cut short: {len(view)} bytes are missing at the end of")
            if self._sha256:
                self._digest.update(view[:count])
            view = view[count:]

    def check(self) -> None:
        if self._sha256 and (found := self._digest.hexdigest()) != self._sha256:
            raise self._lost(f"has SHA-256 {found} instead of that in the name of")

    def _lost(self, how: str) -> BadModel:
        what = f"tensor {self.stored.name} {how} {self.stored.path}"
        if not self._sha256:
            return BadModel(f"{what}; download it again")
        self.stored.path.unlink(missing_ok=True)
        return DamagedWeights(f"{what}, and was thrown out of the cache; load the stage again")


def _blocks(target: Tensor, stored: StoredTensor, block_bytes: int) -> Iterator[Tensor]:
    """`target` in runs of whole rows, of at most `block_bytes` here and in the file, but at least a
    row.
    """
    rows = max(1, block_bytes * len(target) // max(1, stored.bytes, target.nbytes))
    for start in range(0, len(target), rows):
        yield target[start : start + rows]


def _contents(found: Sequence[FoundTensor]) -> Iterator[bytes]:
    """What the hash sees of each tensor; by name, since files may be split in other ways."""
    for each in sorted(found, key=lambda each: each.source.name):
        stored = each.stored
        yield json.dumps([stored.name, stored.dtype, stored.shape]).encode()
        edge_bytes = min(stored.bytes, HASHED_END_BYTES)
        with stored.path.open("rb") as file:
            for start in (stored.start_byte, stored.end_byte - edge_bytes):
                file.seek(start)
                yield file.read(edge_bytes)


def _hash(spec: ModelSpec, stage: Stage, form: WeightForm, parts: Iterator[bytes]) -> str:
    digest = hashlib.sha256(f"{spec.spec_hash} {stage} {form}".encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _generator(name: str, device: torch.device | str) -> torch.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return torch.Generator(device).manual_seed(seed >> 1)  # seeds are signed
