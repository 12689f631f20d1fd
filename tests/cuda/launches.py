"""Triton kernels whose launches are noted instead of run, and what Triton makes of their arguments.

While `kernels_noted` is entered, every kernel of `edgeserve.model.kernels` checks what it is given
and hands it to the device's events. A kernel needs no entry here: its pointers are of the slice's
dtype and contiguous, unless `DTYPES` and `APART` say otherwise.

A variant is what Triton compiles once: a kernel with the dtypes and alignments of its arguments,
the integers that are 1 or divide by 16, its constants and options. Triton itself finds it, as in
a launch.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, KernelInterface, MockTensor

from edgeserve.model import kernels as package
from tests.cuda.events import Argument, Launch, Phase, Pointer, Seen
from tests.cuda.meta_device import MetaDevice, NotAllowed

OPTIONS = frozenset(("num_warps", "num_stages", "num_ctas", "enable_fp_fusion", "maxnreg"))
DTYPES: dict[str, torch.dtype] = {
    "rows_ptr": torch.int32,
    "pages_ptr": torch.int32,
    "partial_ptr": torch.float32,
    "sums_ptr": torch.float32,
    "cos_ptr": torch.float32,
    "scale_ptr": torch.float32,
    "pair_ptr": torch.int32,
    "sin_ptr": torch.float32,
}
"""Of pointers that are not of the slice's dtype."""
PACKED = {"held_ptr": (torch.int8, torch.uint8)}
"""Pointers that may be of these dtypes, too."""
APART = frozenset(("q_ptr", "rows_ptr"))
"""Pointers to rows that may be further apart than they are long; a row itself is contiguous."""


@dataclass(frozen=True)
class Variant:
    """What Triton compiles once."""

    kernel: str
    key: str
    """Triton's own, of dtypes, alignments, constants and options."""


@contextmanager
def kernels_noted(device: MetaDevice, dtype: torch.dtype) -> Iterator[None]:
    """`dtype` is the slice's."""
    kernels = all_kernels()
    for name, kernel in kernels.items():
        # Behind `kernel[grid](...)`, for each of the names that the kernel was imported under.
        kernel.run = functools.partial(_note, device, dtype, name, kernel.arg_names)
    try:
        yield
    finally:
        for kernel in kernels.values():
            del kernel.run


def all_kernels() -> dict[str, Any]:
    """By `module:name`, those that only other kernels call included."""
    modules = [
        importlib.import_module(each.name)
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    return {
        f"{module.__name__}:{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, KernelInterface) and value.fn.__module__ == module.__name__
    }


def _note(
    device: MetaDevice,
    dtype: torch.dtype,
    kernel: str,
    names: list[str],
    *args: object,
    grid: tuple[int, ...] | Callable[[dict[str, object]], tuple[int, ...]],
    warmup: bool,
    **given: Any,
) -> None:
    options = {name: value for name, value in given.items() if name in OPTIONS}
    constants = {name: value for name, value in given.items() if name not in OPTIONS}
    arguments = {**dict(zip(names, args, strict=False)), **constants}
    if sorted(arguments) != sorted(names):
        raise NotAllowed(f"{kernel} takes {names} and is given {list(arguments)}")
    told = {name: _argument(device, arguments[name]) for name in names}
    launch = Launch(
        phase=device.phase,
        kernel=kernel,
        grid=tuple(grid(arguments) if callable(grid) else grid),
        arguments=told,
        options=options,
    )
    _check(launch, dtype)
    device.events.append(launch)


def _argument(device: MetaDevice, value: Any) -> Argument:
    if isinstance(value, Tensor):
        return Pointer(device.seen(value))
    if value is None or isinstance(value, int | float):
        return value
    raise NotAllowed(f"a kernel takes no {type(value).__name__}")


def _check(launch: Launch, dtype: torch.dtype) -> None:
    if not all(0 < size < 2**16 or (at == 0 and 0 < size < 2**31)
               for at, size in enumerate(launch.grid)):  # fmt: skip
        raise NotAllowed(f"{launch.name} has the grid {launch.grid}, which no GPU starts")
    for name, argument in launch.arguments.items():
        if isinstance(argument, Pointer):
            _check_pointer(f"{name} of {launch.name}", name, argument.tensor, dtype)


def _check_pointer(what: str, name: str, tensor: Seen, dtype: torch.dtype) -> None:
    if tensor.device != "meta":
        raise NotAllowed(f"{what} is on {tensor.device}, where a GPU cannot read it")
    wanted = DTYPES.get(name, dtype)
    if tensor.dtype is not wanted and tensor.dtype not in PACKED.get(name, ()):
        raise NotAllowed(f"{what} is {tensor.dtype} instead of {wanted}")
    if not _is_contiguous(tensor, rows_apart=name in APART):
        raise NotAllowed(f"{what} has the shape {tensor.shape} with strides {tensor.stride}")


def _is_contiguous(tensor: Seen, *, rows_apart: bool) -> bool:
    expected = 1
    for size, stride in reversed(list(zip(tensor.shape, tensor.stride, strict=True))[rows_apart:]):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


# -- as JSON, for another process


def to_json(launch: Launch) -> dict[str, object]:
    """All that a variant depends on."""
    return {
        "kernel": launch.kernel,
        "grid": launch.grid,
        "options": launch.options,
        "arguments": {
            name: [str(value.tensor.dtype).removeprefix("torch."), value.tensor.offset_bytes % 16]
            if isinstance(value, Pointer)
            else value
            for name, value in launch.arguments.items()
        },
    }


def from_json(told: Mapping[str, Any]) -> Launch:
    return Launch(
        phase=Phase.GRAPH,
        kernel=told["kernel"],
        grid=tuple(told["grid"]),
        options=told["options"],
        arguments={
            name: _pointer(*value) if isinstance(value, list) else value
            for name, value in told["arguments"].items()
        },
    )


def _pointer(dtype: str, offset_bytes: int) -> Pointer:
    return Pointer(Seen(0, "meta", getattr(torch, dtype), (), (), offset_bytes))


# -- variants


class AbsentDriver:
    """What Triton asks of a GPU's driver before it launches."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        """A number for each capability: Triton keeps variants by device."""
        return self._capability

    def get_current_stream(self, _device: int) -> int:
        return 0


class Placed(MockTensor):  # type: ignore[misc]
    """A tensor as Triton's specialisation looks at it."""

    def __init__(self, dtype: torch.dtype, address: int) -> None:
        super().__init__(dtype)
        self.address = address

    def data_ptr(self) -> int:
        return self.address


class Specialiser:
    """Finds variants without compiling them."""

    def __init__(self, capability: int = 86) -> None:
        self._driver = AbsentDriver(capability)
        self._kernels = {name: _compilable(kernel) for name, kernel in all_kernels().items()}
        self._found: dict[object, Variant] = {}

    def variant(self, launch: Launch) -> Variant:
        key = (launch.kernel, *_described(launch.arguments), *launch.options.items())
        if key not in self._found:
            self._found[key] = Variant(launch.kernel, self._key(launch))
        return self._found[key]

    def _key(self, launch: Launch) -> str:
        keys: list[str] = []

        def note(*, key: str, **_rest: object) -> bool:
            keys.append(key)
            return True  # that it is compiled already

        with driver_active(self._driver), _hook(note):
            warm_up(self._kernels[launch.kernel], launch)
        return keys[0]


def warm_up(kernel: Any, launch: Launch) -> Any:
    """What Triton does for this launch up to the point where it would start."""
    return kernel.warmup(grid=launch.grid, **_placed(launch.arguments), **launch.options)


def _described(arguments: Mapping[str, Argument]) -> Iterator[object]:
    """All that a variant can depend on, and more."""
    for value in arguments.values():
        if isinstance(value, Pointer):
            yield value.tensor.dtype, value.address % 16
        else:
            yield type(value), value


def _placed(arguments: Mapping[str, Argument]) -> dict[str, object]:
    return {
        name: Placed(value.tensor.dtype, value.address) if isinstance(value, Pointer) else value
        for name, value in arguments.items()
    }


def _compilable(kernel: Any) -> Any:
    """The same kernel, where this process interprets it."""
    if isinstance(kernel, InterpretedFunction):
        return JITFunction(kernel.fn, **kernel.kwargs)
    return kernel


@contextmanager
def driver_active(driver: AbsentDriver) -> Iterator[None]:
    before = triton.runtime.driver._active
    triton.runtime.driver.set_active(driver)
    try:
        yield
    finally:
        triton.runtime.driver._active = before


@contextmanager
def _hook(note: Callable[..., bool]) -> Iterator[None]:
    before = triton.knobs.runtime.jit_cache_hook
    triton.knobs.runtime.jit_cache_hook = note
    try:
        yield
    finally:
        triton.knobs.runtime.jit_cache_hook = before
