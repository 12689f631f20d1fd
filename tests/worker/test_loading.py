"""What a load says when the device fails for good, and when."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgeserve.clock import ManualClock
from edgeserve.errors import DeviceLost
from edgeserve.worker import loading as loading_module
from edgeserve.worker.loading import Loading


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
