"""A GPU that is opened, and each way in which it is not, with made-up cards and drivers."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch

from edgeserve.clock import ManualClock
from edgeserve.config import WorkerSettings
from edgeserve.cost.reserve import CUDA_CONTEXT_BYTES
from edgeserve.errors import BadSettings, DoesNotFit, EdgeserveError
from edgeserve.families.spec import Dtype
from edgeserve.gpu import Gpu, NvidiaDriver, Torch
from edgeserve.worker import cuda_device
from edgeserve.worker.cuda_device import COPY_BYTES, COPY_BYTES_MIN, Cuda
from edgeserve.worker.device import Device, open_device
from tests.worker.made_up_cuda import COPY_BYTES_PER_S, CU130, GB, MIB, FakeCuda

RTX_3060 = Gpu(name="RTX 3060", driver_version="580.95.05", memory_free_bytes=12 * GB)
DRIVER = NvidiaDriver(version="580.95.05", gpu=RTX_3060)
CPU_BUILD = Torch(version="2.13.0+cpu", cuda=None)
BAD_USAGE, CANNOT = 2, 3


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cuda(clock: ManualClock) -> FakeCuda:
    return FakeCuda(clock)


@pytest.fixture
def opened(cuda: FakeCuda, clock: ManualClock) -> Opened:
    return Opened(cuda, clock)


class Opened:
    def __init__(self, cuda: FakeCuda, clock: ManualClock) -> None:
        self._cuda, self._clock = cuda, clock

    def __call__(
        self, device: str = "auto", memory: int = 0, driver: NvidiaDriver = DRIVER
    ) -> Device:
        settings = WorkerSettings(device=device, memory=memory, threads=torch.get_num_threads())
        return open_device(settings, self._clock, driver, self._cuda)

    def refused(
        self, device: str = "auto", memory: int = 0, driver: NvidiaDriver = DRIVER
    ) -> EdgeserveError:
        """The sentence, which is one line and has a cure that needs no GPU."""
        with pytest.raises(EdgeserveError) as refused:
            self(device, memory, driver)
        assert "\n" not in str(refused.value)
        return refused.value


# -- it opens


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_card_is_opened_and_measured(device: str, opened: Opened, cuda: FakeCuda) -> None:
    gpu = opened(device)

    assert (gpu.kind, gpu.name) == ("cuda", "NVIDIA GeForce RTX 3060")
    assert gpu.memory_bytes == cuda.free_bytes
    assert gpu.memory_bytes_per_s == pytest.approx(COPY_BYTES_PER_S)
    assert gpu.dtypes == (Dtype.FP16, Dtype.BF16, Dtype.INT8, Dtype.INT4, Dtype.FP32)
    assert cuda.limit_share == 1.0


def test_with_a_limit_the_allocator_stops_below_it(opened: Opened, cuda: FakeCuda) -> None:
    gpu = opened(memory=11 * GB)

    assert gpu.memory_bytes == 11 * GB
    assert cuda.limit_share * cuda.total_bytes == pytest.approx(11 * GB - CUDA_CONTEXT_BYTES)


def test_more_than_the_card_has_is_what_it_has(opened: Opened, cuda: FakeCuda) -> None:
    assert opened(memory=100 * GB).memory_bytes == cuda.total_bytes
    assert cuda.limit_share == 1.0


def test_a_driver_that_only_nvidias_package_makes_new_enough_is_not_asked(opened: Opened) -> None:
    """What PyTorch shows goes before what a table says of drivers."""
    assert opened(driver=NvidiaDriver(version="535.1")).kind == "cuda"


def test_the_cpu_that_is_meant_computes_whatever_the_box_has(
    opened: Opened, cuda: FakeCuda
) -> None:
    cuda.failures["init"] = RuntimeError("CUDA unknown error")

    assert opened("cpu", driver=NvidiaDriver(version="470.1")).kind == "cpu"


# -- memory to measure with


@pytest.mark.parametrize("memory", [900 * 10**6, 600 * 10**6, 400 * 10**6])
def test_the_copy_is_smaller_where_memory_is(memory: int, opened: Opened, cuda: FakeCuda) -> None:
    gpu = opened(memory=memory)

    assert gpu.memory_bytes_per_s == pytest.approx(COPY_BYTES_PER_S)
    assert COPY_BYTES_MIN <= cuda.copied[-1] <= (memory - CUDA_CONTEXT_BYTES) // 2


def test_the_copy_is_as_large_as_ever_where_there_is_room(opened: Opened, cuda: FakeCuda) -> None:
    opened(memory=2 * GB)

    assert cuda.copied == [COPY_BYTES, COPY_BYTES]


def test_a_card_that_is_nearly_full_is_measured_with_what_is_left(
    opened: Opened, cuda: FakeCuda
) -> None:
    cuda.free_bytes = 100 * MIB
    opened()

    assert cuda.copied == [50 * MIB, 50 * MIB]


def test_memory_in_pieces_is_tried_in_smaller_ones(opened: Opened, cuda: FakeCuda) -> None:
    cuda.largest_bytes = 70 * MIB
    opened()

    assert cuda.copied == [64 * MIB, 64 * MIB]


def test_memory_that_another_program_took_meanwhile_is_done_without(
    opened: Opened, cuda: FakeCuda
) -> None:
    cuda.free_bytes, cuda.taken_bytes = 520 * MIB, 200 * MIB
    opened()

    assert cuda.copied == [256 * MIB, 128 * MIB, 128 * MIB], "the first of 256 MiB is given back"


@pytest.mark.parametrize(
    "memory", [1, 300 * 10**6, CUDA_CONTEXT_BYTES, CUDA_CONTEXT_BYTES + 30 * MIB]
)
def test_memory_that_ends_with_cudas_own_is_refused_with_what_it_takes(
    memory: int, opened: Opened, cuda: FakeCuda
) -> None:
    refused = opened.refused(memory=memory)

    assert isinstance(refused, DoesNotFit)
    assert refused.exit_code == CANNOT
    assert "--memory above 384 MB" in str(refused)
    assert cuda.copied == []


def test_a_card_without_any_free_piece_is_refused(opened: Opened, cuda: FakeCuda) -> None:
    cuda.largest_bytes = 2 * MIB

    assert "end other programs on the card" in str(opened.refused())


# -- what cannot be used as it is installed


@pytest.mark.parametrize(
    ("driver", "build", "words"),
    [
        (
            NvidiaDriver(version="550.54.14", gpu=RTX_3060),
            CU130,
            ("550.54.14", "580 or newer", "cu126"),
        ),
        (NvidiaDriver(version="550.54.14"), CU130, ("550.54.14", "CUDA 13.0", "a newer driver")),
        (DRIVER, CPU_BUILD, ("2.13.0+cpu", "without CUDA")),
        (NvidiaDriver(version="580.95.05"), CPU_BUILD, ("580.95.05", "without CUDA")),
    ],
)
def test_a_gpu_that_pytorch_cannot_use_makes_no_cpu_worker(
    driver: NvidiaDriver, build: Torch, words: tuple[str, ...], opened: Opened, cuda: FakeCuda
) -> None:
    cuda.is_shown, cuda.build = False, build

    for device in ("auto", "cuda"):
        refused = opened.refused(device, driver=driver)
        assert isinstance(refused, BadSettings)
        assert refused.exit_code == BAD_USAGE
        assert [word for word in (*words, "--device cpu") if word not in str(refused)] == []


@pytest.mark.parametrize(
    ("capability", "is_refused"), [((7, 5), True), ((6, 1), True), ((8, 0), False)]
)
def test_a_card_before_ampere_is_refused(
    capability: tuple[int, int], is_refused: bool, opened: Opened, cuda: FakeCuda
) -> None:
    cuda.shown_name, cuda.shown_capability = "Tesla T4", capability
    if not is_refused:
        assert opened().kind == "cuda"
        return
    refused = opened.refused()

    assert refused.exit_code == BAD_USAGE
    assert f"Tesla T4 has compute capability {capability[0]}.{capability[1]}" in str(refused)
    assert cuda.copied == []


# -- what is not shown


def test_a_box_without_a_gpu_has_a_cpu_worker(
    opened: Opened, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.is_shown, cuda.build = False, CPU_BUILD
    with caplog.at_level(logging.INFO):
        assert opened(driver=NvidiaDriver()).kind == "cpu"
    assert caplog.text == ""

    refused = opened.refused("cuda", driver=NvidiaDriver())
    assert refused.exit_code == BAD_USAGE
    assert "shows PyTorch no GPU" in str(refused)


def test_gpus_that_are_hidden_on_purpose_leave_the_cpu(
    opened: Opened, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.is_shown = False
    hidden = replace(DRIVER, gpu=None, is_hidden=True)
    with caplog.at_level(logging.INFO):
        assert opened(driver=hidden).kind == "cpu"
    assert "CUDA_VISIBLE_DEVICES hides all GPUs" in caplog.text
    assert "CUDA_VISIBLE_DEVICES hides all GPUs; unset it" in str(
        opened.refused("cuda", driver=hidden)
    )


def test_a_variable_that_names_no_gpu_is_told(opened: Opened, cuda: FakeCuda) -> None:
    cuda.is_shown = False
    said = "CUDA_VISIBLE_DEVICES=3 names none of the 2 that there are"

    refused = opened.refused(driver=NvidiaDriver(version="580.1", said=said))

    assert f"{said}; correct it" in str(refused)


def test_a_container_that_was_given_no_card_is_told(opened: Opened, cuda: FakeCuda) -> None:
    cuda.is_shown = False

    refused = opened.refused(driver=NvidiaDriver(version="580.1", is_reachable=False))

    assert refused.exit_code == BAD_USAGE
    assert "docker run --gpus all" in str(refused)


def test_what_a_start_waits_for_is_in_the_log_before_it_waits(
    opened: Opened, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nvidia-smi hangs in the driver, CUDA does, too."""
    hangs = replace(DRIVER, gpu=None, said="nvidia-smi does not answer within 20 s")
    logged = []
    cuda.when_asked = lambda: logged.append(caplog.text)
    with caplog.at_level(logging.WARNING):
        opened(driver=hangs)

    assert "asking CUDA for a GPU, which may hang: nvidia-smi does not answer" in logged[0]


def test_a_driver_that_does_not_answer_is_told_where_the_kernel_shows_none(
    opened: Opened, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.is_shown = False
    silent = NvidiaDriver(
        said="NVIDIA-SMI has failed because it couldn't communicate with the driver"
    )
    with caplog.at_level(logging.WARNING):
        assert opened(driver=silent).kind == "cpu"
    assert "couldn't communicate" in caplog.text
    assert "couldn't communicate" in str(opened.refused("cuda", driver=silent))


@pytest.mark.parametrize(
    ("said", "by_init", "words"),
    [
        ("Failed to initialize NVML: Driver/library version mismatch", "", ("restart this",)),
        ("No devices were found", "", ("No devices were found", "dmesg")),
        ("", "CUDA unknown error - this may be due to an incorrectly set up environment\n\nmore",
         ("CUDA unknown error", "nvidia_uvm")),
        ("", "No CUDA GPUs are available", ("No CUDA GPUs are available", "nvidia-smi")),
        ("", "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized",
         ("802", "nvidia-fabricmanager")),
        ("", "", ("it counts none",)),
    ],
)  # fmt: skip
def test_a_driver_that_is_new_enough_and_shows_nothing_is_told_with_the_cure(
    said: str, by_init: str, words: tuple[str, ...], opened: Opened, cuda: FakeCuda
) -> None:
    cuda.is_shown = False
    if by_init:
        cuda.failures["init"] = RuntimeError(by_init)
    gpu = None if said else RTX_3060

    refused = opened.refused(driver=NvidiaDriver(version="580.95.05", gpu=gpu, said=said))

    assert refused.exit_code == CANNOT
    assert [
        word for word in (*words, "580.95.05", "--device cpu") if word not in str(refused)
    ] == []


# -- what fails while it comes up

NO_IMAGE = (
    "CUDA error: no kernel image is available for execution on the device\nSearch for "
    "`cudaErrorNoKernelImageForDevice' in the documentation.\nCUDA kernel errors might be ..."
)


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        ("init", RuntimeError("CUDA unknown error - this may be due to"), "nvidia_uvm"),
        ("init", RuntimeError("CUDA error: out of memory"), "who has the card's memory"),
        ("init", AssertionError("libcudart functions unavailable."), "libcudart"),
        ("init", torch.cuda.DeferredCudaCallError("CUDA call failed lazily at\n\nmore"), "lazily"),
        ("capability", torch.AcceleratorError(NO_IMAGE), "has code for this card"),
        ("name", RuntimeError("invalid device ordinal"), "invalid device ordinal"),
        ("memory", torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or "
                                          "unavailable"), "for itself"),
        ("zeros", torch.AcceleratorError(NO_IMAGE), "has code for this card"),
        ("synchronize", torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
         "memory is damaged"),
        ("synchronize", RuntimeError(""), "RuntimeError"),
    ],
)  # fmt: skip
def test_whatever_fails_on_the_way_is_a_sentence_with_a_cure(
    method: str, error: Exception, words: str, opened: Opened, cuda: FakeCuda
) -> None:
    cuda.failures[method] = error

    for device in ("auto", "cuda"):
        refused = opened.refused(device)
        assert refused.exit_code == CANNOT
        missing = [
            each for each in (words, "580.95.05", "--device cpu") if each not in str(refused)
        ]
        assert missing == [], refused
        assert refused.__cause__ is error


def test_a_mistake_of_ours_is_no_sentence(opened: Opened, cuda: FakeCuda) -> None:
    cuda.failures["memory"] = TypeError("ours")

    with pytest.raises(TypeError):
        opened()


# -- the real thing, as far as it is here


@pytest.mark.skipif(torch.cuda.is_available(), reason="a box with a GPU")
def test_pytorch_without_a_gpu_raises_what_is_caught() -> None:
    cuda = Cuda()

    assert not cuda.is_available()
    with pytest.raises(cuda_device.FAILURES):
        cuda.init()
    with pytest.raises(cuda_device.FAILURES):
        cuda.memory()


def test_pytorch_s_own_errors_are_among_those_that_are_caught() -> None:
    for each in (torch.AcceleratorError, torch.OutOfMemoryError, torch.cuda.CudaError):
        assert issubclass(each, cuda_device.FAILURES)
