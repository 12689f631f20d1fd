"""The dashboard in a real browser, before a gateway on three worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

from tests.browser.conftest import OpenPage
from tests.cluster.processes import START_S, Cluster, start_gateway

pytestmark = [
    pytest.mark.browser,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(150),
]
TOKENS = 24
PACED = ("--pace", "rtx-3060", "--memory", "16GB")
"""Workers whose steps take 84 ms with a model of 13B, and whose answers go on until they are told
to stop: nobody needs to be quick to see one under way."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[tuple[Cluster, str]]:
    """Three workers with the demo model, and the URL of their gateway."""
    async with served_by("demo") as found:
        yield found


@pytest_asyncio.fixture
async def paced() -> AsyncIterator[tuple[Cluster, str]]:
    """Three paced workers, and the URL of their gateway."""
    async with served_by("llama-2-13b", PACED, "--dtype", "fp16") as found:
        yield found


@asynccontextmanager
async def served_by(
    model: str, worker_flags: Sequence[str] = (), *gateway_flags: str
) -> AsyncIterator[tuple[Cluster, str]]:
    workers = await asyncio.to_thread(Cluster, worker_flags)
    gateway = start_gateway(workers.addresses, model, *gateway_flags)
    yield workers, await asyncio.to_thread(gateway.wait_until_announced, START_S) + "/"
    await asyncio.to_thread(gateway.stop)
    await asyncio.to_thread(workers.stop)


async def test_an_answer_of_three_workers_has_a_bar_for_each_token(
    cluster: tuple[Cluster, str], open_page: OpenPage
) -> None:
    workers, url = cluster
    async with open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        for i, address in enumerate(workers.addresses):
            box = watched.page.locator(".drawing .stage").nth(i)
            assert str(address) in (await box.text_content() or "")
        await watched.ask("Once upon a time", TOKENS)
        await watched.answered()
        assert await watched.page.locator("#bars .token").count() == TOKENS
        assert await watched.page.locator("#bars .token .compute").count() == TOKENS
        heights = await watched.page.locator("#bars .token .compute").evaluate_all(
            "bars => bars.map((bar) => bar.height.baseVal.value)"
        )
        assert min(heights) > 0, "three stages computed for every token"
        assert "compute" in await watched.text("#outcome")
        assert await watched.page.locator("#receipt-stages tbody th").count() == 3
        await watched.wait_for_text("#slowest", "computes longest")
        assert watched.console == []


async def test_a_killed_worker_is_shown_as_lost_and_then_as_back(
    paced: tuple[Cluster, str], open_page: OpenPage
) -> None:
    workers, url = paced
    async with open_page(url) as watched:
        await watched.wait_for_text("#state", "ready")
        await watched.ask("Once upon a time", 480)
        await watched.wait_for_text("#outcome", "tokens so far")
        await asyncio.to_thread(workers.kill, 1)
        await watched.wait_for_text("#problem", f"stage 1 on worker {workers.addresses[1]}")
        await watched.wait_for_text("#state", "stage 1 lost")
        assert str(workers.addresses[1]) in await watched.text(".stage.lost")
        await asyncio.to_thread(workers.restart, 1)
        await watched.wait_for_text("#state", "ready")
        assert await watched.page.locator(".stage.lost").count() == 0
        await watched.ask("Once upon a time", TOKENS)
        await watched.answered()
        assert await watched.page.locator("#bars .token").count() == TOKENS
