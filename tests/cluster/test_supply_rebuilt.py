"""A stage that is lost and comes back gets its weights again, from as near as they are."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeserve.pipeline.engine import PipelineEngine
from tests.cluster.conftest import TinyModel
from tests.cluster.processes import (
    announced,
    ask,
    boxes,
    engine_settings,
    kill,
    order,
    running_engine,
    start_worker,
    until,
    weights,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(90)]

PROMPT, TOKENS = (5, 17, 60, 3), 12


async def phase(engine: PipelineEngine, wanted: str) -> None:
    await asyncio.to_thread(until, wanted, lambda: engine.status().phase == wanted, 30)


async def test_a_stage_that_comes_back_is_sent_nothing_and_waits_for_a_folder_that_is_away(
    tiny: Callable[[str], TinyModel], tmp_path: Path
) -> None:
    model, here, away = tiny("llama2"), tmp_path / "model", tmp_path / "away"
    shutil.copytree(model.folder, here)
    caches = [tmp_path / name for name in "ab"]
    with boxes(caches) as children:
        addresses = [announced(each) for each in children]
        async with running_engine(engine_settings(addresses, str(here))) as engine:
            here.rename(away)
            kill(children[1])
            children[1].stop()
            await phase(engine, "stage_lost")
            children[1] = start_worker(
                str(addresses[1]), ("--local-files", "off", "--cache", str(caches[1]))
            )
            announced(children[1])
            await asyncio.sleep(3)  # three tries
            still_lost = engine.status().phase
            away.rename(here)
            await phase(engine, "ready")
            answer = await ask(engine, order(PROMPT, TOKENS))
            back = [(each["from"], each["sent_bytes"]) for each in await weights(engine)]

    assert still_lost == "stage_lost"
    assert back == [("memory", 0), ("cache", 0)]
    assert answer == model.greedy(PROMPT, TOKENS)
