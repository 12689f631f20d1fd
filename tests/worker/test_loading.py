"""What a load says when the device fails for good, and when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import DeviceLost, WireError
from edgeserve.worker import loading as loading_module
from edgeserve.worker.loading import Loading, Stage


def sticky(*_: Any) -> Any:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


async def test_the_gateway_is_told_of_a_lost_device_before_the_process_begins_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that ends cuts its calls off soon; and such a device gives no memory back."""
    released = []
    monkeypatch.setattr(loading_module, "release_memory", lambda: released.append("once"))
    told_before: list[int] = []

    def on_lost(_error: DeviceLost) -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: told_before.append(loading._steps.qsize()))

    loading = Loading(sticky, ManualClock(), on_lost)
    loading.run()
    await asyncio.sleep(0)

    assert told_before == [1]
    assert released == ["once"], "before the load, and not after"
    with pytest.raises(DeviceLost, match="illegal memory access"):
        await anext(loading.steps())


async def test_a_stage_that_a_newer_gateway_dropped_is_told_as_that() -> None:
    """It comes between the end of a load and whoever waits for it."""
    loading = Loading(lambda *_: cast("Stage", object()), ManualClock(), lambda _error: None)
    loading.run()
    await asyncio.sleep(0)  # the end is in the queue
    loading.abandon(WireError("epoch 1 is over"))

    assert [step async for step in loading.steps()] == []
    with pytest.raises(WireError, match="epoch 1 is over"):
        loading.take_over()
