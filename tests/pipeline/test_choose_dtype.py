"""What a cluster computes in: the checkpoint's precision, where no worker has to pay for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeserve.config import Address
from edgeserve.errors import BadSettings
from edgeserve.families.folder import ModelSource, open_model
from edgeserve.families.spec import Dtype
from edgeserve.pipeline.cluster import Member, choose_dtype
from edgeserve.wire.client import WorkerClient
from edgeserve.wire.messages import Description

CPU = (Dtype.BF16, Dtype.FP32, Dtype.FP16, Dtype.INT8, Dtype.INT4)
CPU_WITHOUT_BF16 = (Dtype.FP32, Dtype.BF16, Dtype.FP16, Dtype.INT8, Dtype.INT4)
GPU = (Dtype.FP16, Dtype.BF16, Dtype.INT8, Dtype.INT4, Dtype.FP32)
GPU_WITHOUT_BF16 = (Dtype.FP16, Dtype.FP32)


class NeverCalled(WorkerClient):
    """A worker's address, without a channel."""

    def __init__(self, address: Address) -> None:
        self.address = address


def members(*each_dtypes: tuple[Dtype, ...]) -> list[Member]:
    return [
        Member(
            client=NeverCalled(Address("127.0.0.1", 50051 + i)),
            description=Description(
                device="cpu", device_name="2 cores", memory_bytes=0, reserve_bytes=0,
                memory_bytes_per_s=0.0, dtypes=dtypes, epoch=0, loaded=None,
            ),
        )
        for i, dtypes in enumerate(each_dtypes)
    ]  # fmt: skip


def stored_as(dtype: Dtype, model: str = "bench-1b") -> ModelSource:
    source = open_model(model)
    return replace(source, spec=replace(source.spec, checkpoint_dtype=dtype))


@pytest.mark.parametrize(
    ("workers", "stored", "chosen"),
    [
        ([CPU], Dtype.BF16, Dtype.BF16),
        ([CPU], Dtype.FP16, Dtype.BF16),
        ([CPU], Dtype.FP32, Dtype.FP32),
        ([CPU_WITHOUT_BF16], Dtype.BF16, Dtype.FP32),
        ([CPU_WITHOUT_BF16], Dtype.FP16, Dtype.FP32),
        ([CPU, CPU_WITHOUT_BF16], Dtype.BF16, Dtype.FP32),
        ([CPU_WITHOUT_BF16, CPU], Dtype.BF16, Dtype.FP32),
        ([GPU], Dtype.BF16, Dtype.BF16),
        ([GPU], Dtype.FP16, Dtype.FP16),
        ([GPU_WITHOUT_BF16], Dtype.BF16, Dtype.FP16),
        ([GPU, CPU], Dtype.BF16, Dtype.BF16),
        ([GPU, CPU], Dtype.FP16, Dtype.BF16),
        ([GPU, CPU_WITHOUT_BF16], Dtype.FP16, Dtype.FP32),
    ],
)
def test_auto_is_the_checkpoints_precision_or_what_all_do_well(
    workers: list[tuple[Dtype, ...]], stored: Dtype, chosen: Dtype
) -> None:
    assert choose_dtype("auto", stored_as(stored), members(*workers)) is chosen


@pytest.mark.parametrize("asked", CPU)
def test_a_cpu_computes_in_whatever_is_asked_for(asked: Dtype) -> None:
    workers = members(CPU, CPU_WITHOUT_BF16)
    assert choose_dtype(str(asked), stored_as(Dtype.BF16), workers) is asked


def test_a_worker_that_cannot_is_named() -> None:
    workers = members(GPU, GPU_WITHOUT_BF16)
    with pytest.raises(BadSettings, match=r"bf16: worker 127\.0\.0\.1:50052 .* fp16, fp32 only"):
        choose_dtype("bf16", stored_as(Dtype.FP16), workers)
