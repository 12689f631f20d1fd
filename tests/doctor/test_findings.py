"""What would go wrong, and its cure, from made-up boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgeserve import __version__
from edgeserve.config import Address, GatewaySettings, WorkerSettings
from edgeserve.doctor.examined import Examined, Here, Silent
from edgeserve.doctor.findings import HOP_S_MAX, PROMPT_BYTES_PER_S_MIN, judge
from edgeserve.errors import BadModel, DoesNotFit, StageUnavailable, Unauthorized
from edgeserve.families.shapes import SHAPES
from edgeserve.families.spec import Dtype
from edgeserve.gpu import NONE, NvidiaDriver, Torch
from edgeserve.plan.facts import WorkerFacts
from edgeserve.plan.planner import make_plan
from tests.doctor.made_up import (
    BOX,
    DRIVER,
    GB,
    GPU,
    LINK,
    WORKERS,
    answered,
    examined,
    gateways_box,
    workers_box,
)

OPEN = Address("0.0.0.0", 50051)


def faults(seen: Examined) -> list[str]:
    return [each.text for each in judge(seen) if each.is_fault]


def notes(seen: Examined) -> list[str]:
    return [each.text for each in judge(seen) if not each.is_fault]


def assert_one_fault(seen: Examined, *words: str) -> None:
    (text,) = faults(seen)
    assert [word for word in words if word not in text] == [], text


def test_boxes_that_are_well_have_no_fault() -> None:
    assert faults(examined(answered(0), answered(1))) == []
    assert faults(examined(here=workers_box())) == []


def test_two_addresses_of_one_worker_are_a_fault_that_names_both() -> None:
    twice = examined(answered(0, identity="a"), answered(1, identity="a"))
    assert_one_fault(twice, WORKERS[0], WORKERS[1], "one worker", "name it once")
    assert faults(examined(answered(0, identity="a"), answered(1, identity="b"))) == []
    assert faults(examined(answered(0, identity=""), answered(1, identity=""))) == []


def test_a_limit_of_the_workers_container_is_noted() -> None:
    limited = replace(BOX, memory_limit_bytes=3 * GB // 2)
    (note,) = notes(examined(here=workers_box(box=limited)))
    assert "may have 1.5 GB of memory" in note
    assert notes(examined(here=workers_box(box=limited, driver=DRIVER))) == [], "a GPU has its own"


def test_faults_come_before_notes() -> None:
    slow = replace(LINK, idle_round_trip_s=1.0)
    kinds = [each.is_fault for each in judge(examined(answered(0, slow), answered(1)))]

    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {True, False}


# -- workers


def test_a_worker_that_is_not_there_is_a_fault_in_the_words_of_the_wire() -> None:
    why = StageUnavailable("worker 10.0.0.3:50051 cannot be reached; is it running?")

    assert faults(examined(answered(0), Silent(worker=WORKERS[1], why=why))) == [str(why)]


def test_a_missing_token_is_told_from_a_wrong_one() -> None:
    silent = Silent(worker=WORKERS[0], why=Unauthorized("the token is missing or wrong; set it"))
    with_one, without = gateways_box(), gateways_box()
    without = replace(without, as_gateway=replace(without.as_gateway, token=""))

    assert_one_fault(examined(silent, here=with_one), "missing or wrong")
    assert_one_fault(examined(silent, here=without), WORKERS[0], "has none", "EDGESERVE_TOKEN")


def test_another_version_is_named_with_this_one() -> None:
    seen = examined(answered(0, package_version="99.0"), answered(1))

    assert_one_fault(seen, WORKERS[0], "99.0", __version__, "install the same version")


def test_a_gateway_that_serves_with_all_of_them_is_no_fault() -> None:
    seen = examined(answered(0, held=True, epoch=7), answered(1, held=True, epoch=7))

    assert faults(seen) == []
    assert any("a gateway serves with these workers now" in text for text in notes(seen))


def test_a_worker_that_a_newer_gateway_took_is_a_fault() -> None:
    one = examined(answered(0, held=False, epoch=7), answered(1, held=True, epoch=9))
    two = examined(answered(0, held=True, epoch=7), answered(1, held=True, epoch=9))

    for seen in (one, two):
        assert_one_fault(seen, WORKERS[1], "newer gateway", "stop that gateway")
        assert WORKERS[0] not in faults(seen)[0]


def test_a_worker_that_served_before_and_is_free_now_is_no_fault() -> None:
    assert faults(examined(answered(0, epoch=7), answered(1, epoch=9))) == []


# -- links


@pytest.mark.parametrize(
    ("differences", "is_slow"),
    [
        ({"idle_round_trip_s": 1.01 * HOP_S_MAX}, True),
        ({"idle_round_trip_s": 0.99 * HOP_S_MAX}, False),
        ({"bytes_per_s": 0.99 * PROMPT_BYTES_PER_S_MIN}, True),
        ({"bytes_per_s": 1.01 * PROMPT_BYTES_PER_S_MIN}, False),
    ],
)
def test_a_link_that_a_13b_model_would_wait_for_is_a_fault(
    differences: dict[str, float], is_slow: bool
) -> None:
    seen = examined(answered(0, replace(LINK, **differences)), answered(1))

    assert len(faults(seen)) == is_slow
    assert all(WORKERS[0] in text for text in faults(seen))


def test_a_slow_link_says_what_a_token_and_a_prompt_would_pay() -> None:
    late = examined(answered(0, replace(LINK, idle_round_trip_s=7.25e-3)))
    narrow = examined(answered(0, replace(LINK, bytes_per_s=11e6)))

    assert_one_fault(late, "each token of a 13B model", "7.2 ms")
    # 128 x 10,240 B / 11 MB/s
    assert_one_fault(narrow, "11.0 MB/s", "119 ms", "gigabit")


def test_what_all_links_cost_a_token_is_added_up() -> None:
    seen = examined(answered(0), answered(1))

    assert any("2.4 ms on the links to these 2 workers" in text for text in notes(seen))


def test_a_link_that_broke_while_it_was_measured_is_a_fault() -> None:
    assert_one_fault(examined(answered(0, StageUnavailable("too slow"))), WORKERS[0], "too slow")


# -- this box


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"listen": OPEN}, True),
        ({"listen": OPEN, "token": "t"}, False),
        ({"listen": OPEN, "insecure": True}, False),
        ({}, False),
    ],
)
def test_a_worker_open_to_the_network_without_a_token_would_not_start(
    settings: dict[str, Any], is_refused: bool
) -> None:
    found = faults(examined(here=workers_box(as_worker=WorkerSettings(**settings))))

    assert len(found) == is_refused
    assert all("0.0.0.0:50051" in text and "EDGESERVE_TOKEN" in text for text in found)


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        ({"listen": OPEN}, True),
        ({"listen": OPEN, "api_key": ("k",)}, False),
        ({"listen": OPEN, "insecure": True}, False),
    ],
)
def test_a_gateway_open_to_the_network_without_a_key_would_not_start(
    settings: dict[str, Any], is_refused: bool
) -> None:
    found = faults(examined(answered(0), answered(1), here=gateways_box(**settings)))

    assert len(found) == is_refused
    assert all("0.0.0.0:50051" in text and "EDGESERVE_API_KEY" in text for text in found)


def test_a_gateways_box_needs_no_pytorch_and_a_workers_does() -> None:
    bare = Torch(version=NONE, cuda=None)

    assert_one_fault(examined(here=workers_box(torch=bare)), "PyTorch is not installed", "install")
    assert_one_fault(examined(here=workers_box(torch=bare, driver=DRIVER)), "is not installed")
    assert faults(examined(answered(0), here=replace(gateways_box(), torch=bare))) == []


CPU_BUILD = Torch(version="2.13.0+cpu", cuda=None)
OLD = NvidiaDriver(version="550.54.14", gpu=replace(GPU, driver_version="550.54.14"))
TURING = NvidiaDriver(version="580.1", gpu=replace(GPU, name="Tesla T4", capability=(7, 5)))
HIDDEN = NvidiaDriver(version="550.1", is_hidden=True)
ON_CPU = WorkerSettings(device="cpu")
PACED = WorkerSettings(pace="rtx-3060")
ON_GPU = WorkerSettings(device="cuda")


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (workers_box(torch=CPU_BUILD, driver=DRIVER), ("RTX 3060", "2.13.0+cpu", "--device cpu")),
        (workers_box(driver=OLD), ("550.54.14", "CUDA 13.0", "580", "cu126", "--device cpu")),
        (workers_box(driver=NvidiaDriver(version="550.1")), ("550.1", "580")),
        (workers_box(driver=TURING), ("Tesla T4", "7.5", "8.0")),
        (
            workers_box(driver=NvidiaDriver(version="580.1", is_reachable=False)),
            ("docker run --gpus",),
        ),
        (
            workers_box(driver=NvidiaDriver(version="580.1", said="NVML")),
            ("580.1", "NVML", "not start"),
        ),
        (workers_box(driver=NvidiaDriver(version="580.1"), why_no_kernels="no gcc"), ("no gcc",)),
        (workers_box(driver=DRIVER, why_no_kernels="no gcc; apt"), ("no gcc; apt",)),
        (workers_box(as_worker=ON_GPU), ("nvidia-smi", "driver")),
        (
            workers_box(as_worker=ON_GPU, driver=NvidiaDriver(said="NVML mismatch")),
            ("NVML mismatch",),
        ),
        (workers_box(as_worker=ON_GPU, driver=HIDDEN), ("CUDA_VISIBLE_DEVICES hides", "unset it")),
    ],
)
def test_a_gpu_that_would_not_be_used_is_a_fault(here: Here, words: tuple[str, ...]) -> None:
    assert_one_fault(examined(here=here), *words)


@pytest.mark.parametrize(
    "here",
    [
        workers_box(driver=DRIVER),
        workers_box(torch=CPU_BUILD),
        workers_box(torch=CPU_BUILD, driver=DRIVER, as_worker=ON_CPU),
        workers_box(driver=OLD, as_worker=ON_CPU),
        workers_box(driver=HIDDEN),
        workers_box(torch=CPU_BUILD, driver=DRIVER, as_worker=PACED),
        workers_box(driver=NvidiaDriver(version="580.1")),  # nvidia-smi is not there
        workers_box(driver=NvidiaDriver(said="couldn't communicate with the driver")),
    ],
)
def test_a_device_that_is_used_as_it_is_meant_is_none(here: Here) -> None:
    assert faults(examined(here=here)) == []


def test_a_driver_that_does_not_answer_is_noted_where_the_cpu_would_compute() -> None:
    (note,) = notes(examined(here=workers_box(driver=NvidiaDriver(said="couldn't communicate"))))

    assert "would compute on the CPU" in note
    assert "couldn't communicate" in note


def test_a_driver_without_its_program_is_noted_as_what_cannot_be_known() -> None:
    (note,) = notes(examined(here=workers_box(driver=NvidiaDriver(version="580.1"))))

    assert "nvidia-smi is not found" in note


@pytest.mark.parametrize(
    ("torch_version", "driver", "words"),
    [
        ("2.13.0+cu130", "550.54.14", ("its box has NVIDIA driver 550.54.14", "580 or newer")),
        ("2.13.0+cpu", "580.95.05", ("without CUDA",)),
        ("2.13.0+cu130", "580.95.05", ("--device cuda would use it",)),
        ("2.13.0", "550.1", ("--device cuda would use it",)),  # for which CUDA is not known
    ],
)
def test_a_worker_on_the_cpu_of_a_box_with_a_gpu_is_noted_with_the_reason(
    torch_version: str, driver: str, words: tuple[str, ...]
) -> None:
    box = replace(BOX, torch_version=torch_version, driver_version=driver)
    seen = examined(answered(0, device="cpu", box=box), answered(1))

    (note,) = (text for text in notes(seen) if "computes on the CPU" in text)
    assert note.startswith(f"worker {WORKERS[0]} ")
    assert [word for word in words if word not in note] == [], note
    assert faults(seen) == []


def test_a_worker_without_a_driver_or_on_its_gpu_needs_no_such_note() -> None:
    no_gpu = replace(BOX, driver_version=NONE)
    old = replace(BOX, driver_version="550.1")  # with NVIDIA's package for forward compatibility
    for seen in (
        answered(0, device="cpu", box=no_gpu),
        answered(0, box=old),
        answered(0, box=None),
    ):
        assert not any("computes on the CPU" in text for text in notes(examined(seen)))


@pytest.mark.parametrize(
    ("here", "memory_bytes"),
    [
        (workers_box(), 8 * GB),  # 80 % of what is free
        (workers_box(driver=DRIVER), 12 * GB),
        (workers_box(driver=DRIVER, as_worker=ON_CPU), 8 * GB),
        (workers_box(driver=DRIVER, as_worker=PACED), 8 * GB),
        (workers_box(driver=DRIVER, as_worker=WorkerSettings(memory=3 * GB)), 3 * GB),
    ],
)
def test_a_worker_may_use_what_is_free_or_what_it_was_told(here: Here, memory_bytes: int) -> None:
    assert here.memory_bytes == memory_bytes


# -- model and plan


@pytest.mark.parametrize("wrong", [BadModel("/models/x has no config.json"), DoesNotFit("short")])
def test_a_model_that_cannot_start_is_a_fault_in_its_own_words(wrong: BadModel) -> None:
    assert faults(examined(answered(0), answered(1), plan=wrong)) == [str(wrong)]


def test_a_plan_says_what_fits() -> None:
    workers = [
        WorkerFacts(name=name, memory_bytes=12 * GB, reserve_bytes=GB // 2) for name in WORKERS
    ]
    plan = make_plan(SHAPES["llama-2-7b"], Dtype.FP16, workers, pages_max=100)
    said = notes(examined(answered(0), answered(1), plan=plan))

    assert "in fp16 the model fits as 16/16 layers, with room for 1,600 tokens of keys" in " ".join(
        said
    )


def test_what_is_ignored_of_a_models_files_is_no_fault() -> None:
    seen = replace(examined(answered(0), answered(1)), warnings=('"x" is not known',))

    assert faults(seen) == []
    assert '"x" is not known' in notes(seen)


def test_a_fault_is_one_line() -> None:
    seen = examined(
        answered(0, replace(LINK, idle_round_trip_s=1.0, bytes_per_s=1.0), package_version="9"),
        here=gateways_box(listen=OPEN),
    )

    assert len(faults(seen)) == 4
    assert not any("\n" in text for text in faults(seen))
    assert GatewaySettings().listen.is_loopback  # or every test above would have one more
