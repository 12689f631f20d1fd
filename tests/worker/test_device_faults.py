"""Which errors end a process, and which only the work that met them."""

from __future__ import annotations

import pytest
import torch

from edgeserve.errors import EdgeserveError, WireError
from edgeserve.worker.device_faults import (
    device_lost,
    is_out_of_memory,
    release_memory,
    without_trace,
)


def accelerator_error(code: int | None, words: str) -> torch.AcceleratorError:
    """As PyTorch makes them from what CUDA says."""
    error = torch.AcceleratorError(f"CUDA error: {words}\nCUDA kernel errors might be ...")
    if code is not None:
        error.error_code = code  # type: ignore[attr-defined]
    return error


STICKY = [
    accelerator_error(700, "an illegal memory access was encountered"),
    accelerator_error(719, "unspecified launch failure"),
    accelerator_error(710, "device-side assert triggered"),
    accelerator_error(716, "misaligned address"),
    accelerator_error(702, "the launch timed out and was terminated"),
    accelerator_error(214, "uncorrectable ECC error encountered"),
    accelerator_error(220, "uncorrectable NVLink error detected during the execution"),
    accelerator_error(715, "an illegal instruction was encountered"),
    accelerator_error(999, "unknown error"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: unspecified launch failure"),
]
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 283.00 MiB."),
    accelerator_error(2, "out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    MemoryError(),
]
ORDINARY = [
    accelerator_error(1, "invalid argument"),
    accelerator_error(209, "no kernel image is available for execution on the device"),
    accelerator_error(701, "too many resources requested for launch"),
    accelerator_error(901, "operation failed due to a previous error during capture"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ValueError("an illegal memory access, says somebody who has no device"),
    WireError("frame 3 has token id 340; the vocabulary has 300"),
]


@pytest.mark.parametrize("error", STICKY, ids=str)
def test_a_sticky_error_ends_the_process_and_says_what_it_was(error: Exception) -> None:
    lost = device_lost(error)

    assert lost is not None
    assert str(error).partition("\n")[0] in str(lost)
    assert lost.exit_code == 4


@pytest.mark.parametrize("error", [*FULL, *ORDINARY], ids=repr)
def test_an_ordinary_one_does_not(error: Exception) -> None:
    assert device_lost(error) is None
    assert is_out_of_memory(error) == (error in FULL)


UNCLEAR = [
    accelerator_error(None, "a message of another version"),
    accelerator_error(400, "invalid resource handle"),
    accelerator_error(720, "too many blocks in cooperative launch"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"),
    RuntimeError("a library says it in its own way"),
]


@pytest.mark.parametrize("error", UNCLEAR, ids=str)
@pytest.mark.parametrize(
    ("answer", "is_lost"),
    [
        (None, False),
        (accelerator_error(900, "operation not permitted when stream is capturing"), False),
        (accelerator_error(400, "invalid resource handle"), True),
        (accelerator_error(700, "an illegal memory access was encountered"), True),
        (RuntimeError("whatever it says"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
    ids=str,
)
def test_of_an_error_in_other_words_the_device_is_asked(
    error: Exception, answer: Exception | None, is_lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def synchronize(self) -> None:
            if answer is not None:
                raise answer

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)

    lost = device_lost(error)

    assert (lost is not None) == is_lost


def test_an_error_without_its_trace_says_the_same_and_holds_nothing() -> None:
    def fails() -> None:
        try:
            raise ValueError
        except ValueError as cause:
            raise EdgeserveError("a sentence", bytes=3) from cause

    with pytest.raises(EdgeserveError) as caught:
        fails()
    bare = without_trace(caught.value)

    assert bare.to_json() == {"error": "a sentence", "error_type": "internal", "bytes": 3}
    assert (bare.__traceback__, bare.__context__, bare.__cause__) == (None, None, None)


@pytest.mark.parametrize("is_there", [True, False])
def test_what_cublas_keeps_goes_back_before_the_next_load(
    is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps 8 to 32 MB for each stream that it was called on, and each stage has one more."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_there)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("cache"))
    monkeypatch.setattr(
        torch._C, "_cuda_clearCublasWorkspaces", lambda: done.append("cuBLAS"), raising=False
    )

    release_memory()

    assert done == ["cuBLAS", "cache"][not is_there :]
