"""A GPU that is not there: tensors on PyTorch's device `meta`, which have everything but numbers.

While a `MetaDevice` is entered, each operator is noted and checked. What a GPU would wait for, what
no CUDA graph may hold, and what mixes devices raises `NotAllowed` where it is called. Copies to the
host give zeros. Pinned memory, which only a machine with a GPU has, is ordinary memory that is
remembered to be pinned.

Refuses to know models and kernels.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda.events import Allocated, Event, Freed, Operator, Phase, Seen

META = torch.device("meta")

RECORDABLE = frozenset(
    """
    add.out add.Tensor addmm argmax cat copy_ cos embedding empty_like gather index_select logsumexp
    mm mul.Tensor new_empty rms_norm select.int sin slice.Tensor split.Tensor stack sub.Tensor t
    unsqueeze view _to_copy __rshift__.Scalar bitwise_and.Scalar sub.Scalar
    """.split()
)
"""Operators that a recording may call, with their overload if it is not the default one. Each runs
kernels that read and write the device alone, whatever the numbers are, or none at all."""
WHOLE = frozenset(("rms_norm",))
"""Composite operators that a GPU has a kernel for."""
WAITS = frozenset(
    "_local_scalar_dense nonzero masked_select _unique2 unique_dim repeat_interleave.Tensor".split()
)
"""Operators whose result or its size the host has to wait for."""


AT_LOAD = frozenset((Phase.LOAD, Phase.PAGES, Phase.INPUTS))
"""When a worker may wait for its device."""


class NotAllowed(AssertionError):
    """What a GPU could not do, or could not do without waiting."""


class MetaDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes all events in `events`, as of the phase it is in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.phase = Phase.LOAD
        self.pinned: set[int] = set()
        self.alive: dict[int, int] = {}
        """Pieces of the device's memory, and their bytes."""
        self._numbers = itertools.count()
        self._storages: dict[int, int] = {}

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        name = _name(func)
        inputs = list(_tensors((*args, *given.values())))
        with self:
            result = func.decompose(*args, **given) if _is_composite(func) else NotImplemented
        if result is not NotImplemented:
            return result
        self._check(name, inputs, given)
        result = self._run(func, name, args, given)
        outputs = list(_tensors((result,)))
        self._note(func, name, inputs, outputs)
        return result

    def seen(self, tensor: Tensor) -> Seen:
        return Seen(
            storage=self._number(tensor, "given"),
            device=tensor.device.type,
            dtype=tensor.dtype,
            shape=tuple(tensor.shape),
            stride=tuple(tensor.stride()),
            offset_bytes=int(tensor.storage_offset()) * tensor.element_size(),
        )

    # -- what may be done

    def _check(self, name: str, inputs: Sequence[Tensor], given: Mapping[str, Any]) -> None:
        on_device = [each for each in inputs if each.is_meta]
        if on_device and name in WAITS and self.phase not in AT_LOAD:
            raise NotAllowed(f"{name} waits for the device ({self.phase})")
        if self.phase in (Phase.WARM_UP, Phase.GRAPH):
            self._check_recordable(name, inputs, given)
        if on_device and len(on_device) < len(inputs) and not _copies(name):
            raise NotAllowed(f"{name} mixes tensors of the host and of the device ({self.phase})")

    def _check_recordable(
        self, name: str, inputs: Sequence[Tensor], given: Mapping[str, Any]
    ) -> None:
        if name not in RECORDABLE:
            raise NotAllowed(f"{name} is not known to be recordable in a CUDA graph")
        elsewhere = given.get("device", META)
        if torch.device(elsewhere).type != "meta" or not all(each.is_meta for each in inputs):
            raise NotAllowed(f"{name} touches the host's memory inside a recording")
        if given.get("pin_memory"):
            raise NotAllowed(f"{name} takes pinned memory inside a recording")

    def _check_copy(self, target: Tensor, source: Tensor, non_blocking: bool) -> None:
        if self.phase in AT_LOAD or target.is_meta == source.is_meta:
            return
        host = source if target.is_meta else target
        if not non_blocking or self._number(host, "given") not in self.pinned:
            raise NotAllowed("a copy between host and device waits unless pinned and non_blocking")

    # -- what is done

    def _run(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        if name == "_local_scalar_dense" and args[0].is_meta:
            return 1.0 if args[0].dtype.is_floating_point else 1
        if name == "copy_":
            return self._copied(func, args, given)
        if name == "_to_copy":
            return self._moved(func, args, given)
        if name == "_pin_memory":
            return self._as_pinned(args[0].clone())
        if given.pop("pin_memory", False):
            return self._as_pinned(func(*args, **given))
        return func(*args, **given)

    def _copied(
        self, func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]
    ) -> Any:
        target, source, *rest = args
        self._check_copy(target, source, given.get("non_blocking", bool(rest and rest[0])))
        if source.is_meta and not target.is_meta:
            return target.zero_()
        return func(*args, **given)

    def _moved(self, func: Callable[..., Any], args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        source: Tensor = args[0]
        device = torch.device(given.get("device") or source.device)
        if source.device.type == device.type:
            return func(*args, **given)
        target = torch.zeros(source.shape, dtype=given.get("dtype") or source.dtype, device=device)
        self._check_copy(target, source, given.get("non_blocking", False))
        return target

    def _as_pinned(self, tensor: Tensor) -> Tensor:
        self.pinned.add(self._number(tensor, "pinned"))
        return tensor

    # -- what is noted

    def _note(
        self, func: Any, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        if not any(each.is_meta for each in (*inputs, *outputs)):
            return
        for each in outputs:
            self._number(each, name)
        self.events.append(
            Operator(
                phase=self.phase,
                name=name,
                inputs=tuple(map(self.seen, inputs)),
                outputs=tuple(map(self.seen, outputs)),
                is_view=func.is_view,
            )
        )

    def _number(self, tensor: Tensor, operator: str) -> int:
        """Of the tensor's storage; one that is new is noted, and so will be its end."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._storages:
            number = self._storages[key] = next(self._numbers)
            weakref.finalize(storage, self._ended, key, number).atexit = False
            if tensor.is_meta:
                self.alive[number] = storage.nbytes()
                self.events.append(Allocated(self.phase, number, storage.nbytes(), operator))
        return self._storages[key]

    def _ended(self, key: int, number: int) -> None:
        del self._storages[key]
        self.pinned.discard(number)
        if self.alive.pop(number, None) is not None:
            self.events.append(Freed(self.phase, number))


@functools.cache
def _name(func: Any) -> str:
    name = str(func).removeprefix("aten.")
    return name.removesuffix(".default")


@functools.cache
def _is_composite(func: Any) -> bool:
    if _name(func) in WHOLE:
        return False
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(has(func.name(), "CompositeImplicitAutograd"))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Operators take and give tensors, and lists of them."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


def _copies(name: str) -> bool:
    return name in ("copy_", "_to_copy")
