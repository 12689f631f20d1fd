"""A real browser on the dashboard, and a watch over what its page does that it must not."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import uvicorn
from playwright.async_api import Browser, Page, async_playwright

from edgeserve.gateway.app import create_app
from edgeserve.gateway.app_state import AppState

CHROMIUM_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
REFUSED = "Failed to load resource"
"""What the console says of a status such as 401, which some tests want."""
NOTE_VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
        window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""

OpenPage = Callable[..., AbstractAsyncContextManager["Watched"]]


@dataclass(kw_only=True)
class Watched:
    """A page, and what came up while it was open."""

    page: Page
    console: list[str] = field(default_factory=list)
    """Errors and warnings."""
    requests: list[str] = field(default_factory=list)

    async def text(self, selector: str) -> str:
        return await self.page.text_content(selector) or ""

    async def wait_for_text(self, selector: str, text: str) -> None:
        found = self.page.locator(selector, has_text=text)
        await found.first.wait_for(state="visible", timeout=30_000)

    async def ask(self, prompt: str, tokens: int) -> None:
        await self.page.fill("#prompt", prompt)
        await self.page.fill("#max-tokens", str(tokens))
        await self.page.click("#send")

    async def say(self, prompt: str) -> None:
        """As a person does: by Enter."""
        await self.page.fill("#prompt", prompt)
        await self.page.press("#prompt", "Enter")

    async def answered(self) -> None:
        await self.page.wait_for_selector("#receipt-sums:not([hidden])", timeout=40_000)

    async def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        root = "document.documentElement"
        found: int = await self.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth")
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("there is no chromium; Debian's package has that name")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest.fixture
def open_page(browser: Browser) -> OpenPage:
    """Opens a URL in a context of its own, and fails if the page did what it must not."""

    @asynccontextmanager
    async def open_page(url: str, **wishes: Any) -> AsyncIterator[Watched]:
        context = await browser.new_context(**{"viewport": {"width": 1180, "height": 900}} | wishes)
        page = await context.new_page()
        await page.add_init_script(NOTE_VIOLATIONS)
        watched = Watched(page=page)
        page.on("console", lambda said: _note(watched, said.type, said.text))
        page.on("pageerror", lambda error: watched.console.append(str(error)))
        page.on("request", lambda request: watched.requests.append(request.url))
        await page.goto(url)
        yield watched
        assert await page.evaluate("window.violations") == []
        assert [each for each in watched.requests if not each.startswith(url)] == []
        assert [each for each in watched.console if not each.startswith(REFUSED)] == []
        await context.close()

    return open_page


def _note(watched: Watched, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        watched.console.append(text)


@asynccontextmanager
async def served(state: AppState) -> AsyncIterator[str]:
    """On a free port of this machine; gives its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(state), log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        await serving
