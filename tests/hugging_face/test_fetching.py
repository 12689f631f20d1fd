"""A worker's part: files come on a thread of their own, and somebody hears of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from huggingface_hub import constants

from edgeserve.errors import BadModel, EdgeserveError
from edgeserve.frames.stage import LayerRange, Stage
from edgeserve.hugging_face.progress import FetchProgress
from edgeserve.hugging_face.reference import HubModel
from edgeserve.wire.messages import LoadProgress
from edgeserve.worker import fetching as module
from edgeserve.worker.fetching import fetching
from tests.hugging_face.hub import Hub

NAME = "org/name"
MIDDLE = Stage(LayerRange(1, 3), embedding=False, head=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_PERIOD_S", 0.005)


async def _heard(commit: str) -> list[LoadProgress]:
    async with asyncio.timeout(10):
        return [step async for step in fetching(HubModel(NAME, commit), MIDDLE)]


async def _last(heard: AsyncIterator[LoadProgress]) -> None:
    async for _ in heard:
        pass


async def test_files_are_here_when_it_ends(hub: Hub, folder: Path) -> None:
    commit = hub.publish(NAME, folder)
    await _heard(commit)
    snapshot = Path(constants.HF_HUB_CACHE) / "models--org--name" / "snapshots" / commit
    assert {path.stem for path in snapshot.glob("*.safetensors")} == {"layer1", "layer2"}


async def test_it_speaks_while_bytes_come_and_is_silent_when_they_do_not(
    hub: Hub, folder: Path
) -> None:
    hub.silent_after["layer1.safetensors"] = 10
    heard = fetching(HubModel(NAME, hub.publish(NAME, folder)), MIDDLE)
    async with aclosing(heard):
        step = await anext(heard)
        total_bytes = sum((folder / f"layer{i}.safetensors").stat().st_size for i in (1, 2))
        while step.bytes_total == 0:  # the configuration comes first
            step = await anext(heard)
        assert step.bytes_total == total_bytes
        assert step.bytes_done < total_bytes
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_last(heard), 0.1)


async def test_what_goes_wrong_is_raised_where_it_is_waited_for(hub: Hub) -> None:
    with pytest.raises(BadModel, match="neither a folder here nor"):
        await _heard("0" * 40)


async def test_a_mistake_of_ours_ends_the_wait_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "fetch_stage", broken)
    with pytest.raises(EdgeserveError, match=f"fetching {NAME}@x failed"):
        await _heard("x")
    while not shown:
        await asyncio.sleep(0.001)
    assert shown[0].exc_type is ZeroDivisionError


async def test_who_stops_listening_stops_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def endless(_model: HubModel, _stage: Stage | None, progress: FetchProgress) -> None:
        told.append(progress)
        hub.released.wait(10)

    monkeypatch.setattr(module, "fetch_stage", endless)
    listening = asyncio.create_task(_heard("x"))
    while not told:
        await asyncio.sleep(0.001)
    assert not told[0].cancelled
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert told[0].cancelled
