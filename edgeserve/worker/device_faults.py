"""Tells the error of one frame or load from the end of the device, and gives memory back.

Some errors of CUDA are sticky: the kernel that made them has ended the context, and every later
call of this process, whatever it asks for, gets the same error. Nothing but another process helps
(CUDA's runtime says so of each of them: "the process must be terminated and relaunched"). All
others, out of memory above all, concern the work that met them.

PyTorch tells most errors as `AcceleratorError` with CUDA's number; Triton and cuBLAS tell theirs in
words alone, and cuBLAS in words that hide CUDA's. So whatever is not known by number or words is
settled by asking the device for something harmless: a sticky error comes back from every call, and
a worker must not end for one that does not.
"""

from __future__ import annotations

import gc

import torch

from edgeserve.errors import DeviceLost, EdgeserveError
from edgeserve.model.graph_timer import release_workspaces

STICKY = frozenset({214, 220, 700, 702, 710, *range(714, 720), 999})
"""CUDA's numbers for errors that have ended the context: memory that cannot be corrected, a wrong
address or instruction, a device's assertion, a launch that failed or took too long, and what CUDA
itself does not know."""
ORDINARY = frozenset({1, 2, 9, 98, 209, 218, 222, 500, 600, 701, 801, *range(900, 911)})
"""For an error of one call: a wrong argument, out of memory, a kernel that is not in the binary,
was not compiled for this card or takes too many registers, something not supported, a recording
that was broken off. A stream that answers so is there."""
STICKY_WORDS = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "device-side assert",
    "launch failure",
    "launch timed out",
    "hardware stack error",
    "uncorrectable",
)
FULL_WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""The last are those of PyTorch on a CPU."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whoever said it: the allocator, CUDA itself (for graphs and pinned memory), Triton, cuBLAS,
    or the processor's allocator.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL_WORDS)


def device_lost(error: BaseException) -> DeviceLost | None:
    """What an error of the device's work means for this process, if it means its end."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return None
    if not (_is_sticky(error) or _answers_no_more()):
        return None
    said = str(error).partition("\n")[0]
    return DeviceLost(
        f"the GPU has failed ({said}), and nothing more can be computed in this process; the "
        "worker ends, and serves again when it has been started anew"
    )


def without_trace(error: EdgeserveError) -> EdgeserveError:
    """The same, without what it holds: a traceback has every local variable on the way, and so the
    slice and the pages of a load that failed.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def release_memory() -> None:
    """Whatever nobody uses any more goes back to the device; cycles, too, without waiting for
    Python's collector. Between two stages only: graphs use the workspaces that go back.
    """
    gc.collect()
    release_workspaces()


def _is_sticky(error: RuntimeError) -> bool:
    return _code(error) in STICKY or any(words in str(error) for words in STICKY_WORDS)


def _code(error: RuntimeError) -> int | None:
    """CUDA's number; None where PyTorch was told none."""
    return getattr(error, "error_code", None)


def _answers_no_more() -> bool:
    """Whether the device refuses even to wait for what it was told. The stream and not the device,
    for which nobody may wait while another is recorded.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.current_stream().synchronize()
    except RuntimeError as error:
        return not is_out_of_memory(error) and _code(error) not in ORDINARY
    return False
